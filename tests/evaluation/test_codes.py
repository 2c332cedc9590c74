"""What codes know: judged on people a member never saw, beside the level of chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_members import fresh_members, planted_data, quick, trained_members

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.codes import CodeReport, code_report, encode_scans
from hpc_brainage.evaluation.probes import logistic_probe, ridge_probe
from hpc_brainage.evaluation.splits import check_folds


@pytest.fixture(scope="module")
def report() -> CodeReport:
    return code_report(*trained_members(), shuffles=20)


def value(report: CodeReport, code: str, target: str, score: str) -> pd.Series:
    table = report.probes
    (found,) = np.flatnonzero(
        (table["code"] == code) & (table["target"] == target) & (table["score"] == score)
    )
    return table.iloc[found]


# -- codes of held-out people ----------------------------------------------------------------------


def test_an_absent_modality_has_no_code() -> None:
    members, data, _ = trained_members()
    table = encode_scans(members[0], data, np.arange(len(data.scans)))
    absent = ~data.inputs["fmri"].present
    assert absent.any()
    assert np.isnan(table.mean["fmri"][absent]).all()
    assert np.isfinite(table.mean["fmri"][~absent]).all()
    assert not table.complete[absent].any()
    assert table.shared("smri").shape == table.distinct("smri").shape == (len(absent), 4)
    np.testing.assert_array_equal(
        np.hstack([table.shared("fmri"), table.distinct("fmri")]), table.mean["fmri"]
    )


def test_folds_that_split_a_person_or_count_wrongly_are_refused() -> None:
    members, data, fold = trained_members()
    with pytest.raises(UsageError, match="folds for"):
        check_folds(members, data, fold[1:])
    with pytest.raises(UsageError, match="3 members"):
        check_folds(members, data, fold + 1)
    scans = data.scans.assign(participant_id=["twice", "twice", *data.scans["participant_id"][2:]])
    split = fold.copy()
    split[:2] = (0, 1)
    with pytest.raises(UsageError, match="in several folds"):
        check_folds(members, replace(data, scans=scans), split)
    split[:2] = (1, 1)
    check_folds(members, replace(data, scans=scans), split)


# -- probes ----------------------------------------------------------------------------------------


def test_a_ridge_probe_finds_what_is_there_and_nothing_among_shuffled_people() -> None:
    draw = np.random.default_rng(0)
    x, unseen = draw.normal(size=(200, 6)), draw.normal(size=(500, 6))
    loading = draw.normal(size=(6, 2))
    said = ridge_probe(x, x @ loading + 3, unseen, 10, np.random.default_rng(1))
    truth = unseen @ loading + 3
    r2 = 1 - ((said - truth) ** 2).sum(axis=(1, 2)) / ((truth - truth.mean(axis=0)) ** 2).sum()
    assert r2[0] > 0.999
    assert (np.abs(r2[1:]) < 0.1).all()


def test_a_ridge_probe_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import RidgeCV

    draw = np.random.default_rng(3)
    x = draw.normal(2, 5, (60, 4))
    y = (x @ draw.normal(size=4) + draw.normal(size=60))[:, None]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    oracle = RidgeCV(alphas=np.logspace(-1, 6, 15)).fit(z, y[:, 0])
    np.testing.assert_allclose(ridge_probe(x, y, x, 4, draw)[0, :, 0], oracle.predict(z), atol=1e-8)


def test_a_logistic_probe_weighs_a_rare_class_like_a_common_one() -> None:
    draw = np.random.default_rng(0)
    label = np.where(draw.random(400) < 0.1, "rare", "common")
    x = draw.normal(size=(400, 3)) + 2.0 * (label == "rare")[:, None]
    classes, said = logistic_probe(
        x[:200], label[:200], np.arange(200), x[200:], 10, np.random.default_rng(1)
    )
    assert classes.tolist() == ["common", "rare"]
    found = classes[said.argmax(axis=2)] == label[200:]
    recall = np.stack([found[:, label[200:] == name].mean(axis=1) for name in classes])
    assert recall[:, 0].min() > 0.9
    assert abs(recall[:, 1:].mean() - 0.5) < 0.15


def test_a_column_that_does_not_vary_says_nothing() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(50, 2)), draw.normal(size=(50, 1))
    flat = np.hstack([x, np.full((50, 1), 7.0)])
    plain = ridge_probe(x, y, x, 0, draw)
    moved = flat + np.array([0, 0, 1e6])
    np.testing.assert_allclose(ridge_probe(flat, y, moved, 0, draw), plain, atol=1e-10)


# -- the report ------------------------------------------------------------------------------------


def test_codes_of_a_cohort_with_a_planted_age_know_it_and_do_not_know_a_made_up_site(
    report: CodeReport,
) -> None:
    for code in ("shared smri", "shared fmri", "all"):
        row = value(report, code, "age", "R2")
        assert row["value"] > 0.3 > row["chance_best"]
    assert value(report, "all", "age", "R2")["value"] > 0.7
    made_up = value(report, "all", "site", "balanced accuracy")
    assert abs(made_up["value"] - 1 / 3) < 0.15
    assert abs(made_up["chance"] - 1 / 3) < 0.05
    assert value(report, "all", "age", "MAE")["value"] < value(report, "all", "age", "MAE")["chance_best"]


def test_every_row_speaks_of_the_people_who_have_everything(report: CodeReport) -> None:
    _, data, _ = trained_members()
    both = int((data.inputs["smri"].present & data.inputs["fmri"].present).sum())
    assert set(report.probes["n"]) == {both}


def test_the_shared_code_of_one_modality_tells_that_of_the_other_more_than_the_distinct_one_does(
    report: CodeReport,
) -> None:
    shared = value(report, "shared smri", "shared fmri", "R2")
    assert shared["value"] > 0.3 > shared["chance_best"]
    assert shared["value"] > value(report, "distinct smri", "distinct fmri", "R2")["value"]


def test_the_same_seed_gives_the_same_report() -> None:
    one, other = (code_report(*trained_members(), targets=("age",), shuffles=2, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(one.probes, other.probes, check_exact=True)
    assert "| shared smri | age | R2 |" in one.markdown()


def test_a_unit_that_says_the_same_of_everybody_is_not_active(tmp_path: Path) -> None:
    config = quick()
    data = planted_data(tmp_path, config, people=40)
    members, fold = fresh_members(data, config)
    with torch.no_grad():
        for member in members:
            for role in member.roles:
                head = member.network.encoders[role].mu
                head.weight *= 10
                head.weight[[0, 5]] = 0
    spread = code_report(members, data, fold, targets=(), shuffles=0).spread.set_index("code")
    assert (spread["active"] == 3).all()
    assert (spread["units"] == 4).all()
    assert spread["sigma"].between(0.2, 3).all()


def test_one_sex_alone_is_not_probed_for(tmp_path: Path) -> None:
    config = quick()
    data = planted_data(tmp_path, config, people=60)
    data = replace(data, scans=data.scans.assign(sex="F", site=""))
    members, fold = fresh_members(data, config)
    assert set(code_report(members, data, fold, shuffles=1).probes["target"]) == {
        "age", "shared smri", "shared fmri", "distinct smri", "distinct fmri",
    }  # fmt: skip
