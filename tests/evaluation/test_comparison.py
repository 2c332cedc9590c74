"""The tables: who is compared with whom, what is said of it, and that bad models read as bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.comparison import Evaluation, evaluate_predictions
from hpc_brainage.evaluation.groups import groups_of
from hpc_brainage.evaluation.intervals import corrected_t_test
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.evaluation.report import as_markdown, heading, summary, tables, write_report
from hpc_brainage.evaluation.splits import by_label

N = 240
RNG = np.random.default_rng(0)
AGE = RNG.uniform(8, 60, N)
NOISE = RNG.normal(0, 1, N)
OTHER_NOISE = RNG.normal(0, 1, N)
SCANS = pd.DataFrame(
    {
        "participant_id": [f"p{i}" for i in range(N)],
        "age": AGE,
        "sex": np.where(np.arange(N) % 3 == 0, "F", "M"),
        "site": [f"site {i % 8}" for i in range(N)],
    }
)
FOLD = np.arange(N) % 5
HAS = ["smri+fmri" if i % 4 else "smri" for i in range(N)]


def compare(model: np.ndarray, **others: np.ndarray) -> Evaluation:
    predictions = {"net": np.atleast_2d(model), "mean": np.full((1, N), AGE.mean())}
    predictions |= {name: np.atleast_2d(values) for name, values in others.items()}
    return evaluate_predictions(
        "net", predictions, SCANS, HAS, by_label(FOLD), protocol="5 folds", constants=["mean"]
    )


def test_a_model_that_is_better_than_all_is_called_so() -> None:
    found = compare(AGE + NOISE, ridge=AGE + 4 * OTHER_NOISE)
    assert found.verdicts[0].startswith(
        "net: better by its intervals over people and over sites than the strongest simple predictor,"
        " 'ridge'"
    )
    assert "the corrected test over 5 splits also tells them apart, p " in found.verdicts[0]
    difference = next(d for d in found.differences if d.other == "ridge")
    expected = np.abs(NOISE).mean() - np.abs(4 * OTHER_NOISE).mean()
    assert difference.mae.value == pytest.approx(expected)
    assert difference.mae.people is not None
    assert difference.mae.people.low < expected < difference.mae.people.high < 0
    assert difference.test is not None
    assert difference.test.p < 0.01
    assert difference.test.degrees == 4


def test_a_constant_in_disguise_is_no_better_than_a_constant_age() -> None:
    found = compare(AGE.mean() + 0.1 * NOISE, ridge=AGE + NOISE)
    assert "no better than a constant age" in found.verdicts[0]
    assert "do not use" in found.verdicts[0]


def test_a_model_that_is_ahead_by_chance_only_is_not_called_better() -> None:
    found = compare(AGE + 2 * NOISE, ridge=AGE + 2.02 * np.roll(NOISE, 1))
    assert "not shown to be better than the strongest simple predictor" in found.verdicts[0]


def test_a_model_behind_a_simple_one_is_called_no_better() -> None:
    found = compare(AGE + 4 * NOISE, ridge=AGE + OTHER_NOISE)
    assert (
        "worse by its intervals over people and over sites than the strongest simple predictor, 'ridge'"
        in found.verdicts[0]
    )


def test_a_model_that_misses_an_age_which_a_simple_one_reads_is_told_so() -> None:
    """No better than a constant, and somebody else is: the data are not to blame."""
    found = compare(AGE.mean() + 0.1 * NOISE, ridge=AGE + 4 * OTHER_NOISE)
    assert "no better than a constant age" in found.verdicts[0]
    assert "worse by its intervals over people and over sites than" in found.verdicts[0]
    assert "'ridge' (MAE" in found.verdicts[0]
    nobody_does = compare(AGE.mean() + 0.1 * NOISE, ridge=AGE.mean() + 9 * OTHER_NOISE)
    assert "ridge" not in nobody_does.verdicts[0]


def test_p_is_said_whether_or_not_it_agrees_with_the_intervals() -> None:
    """A gain that is the same over people and sites, but comes from one fold."""
    gain = np.where(FOLD == 0, 2.5, 0.3)
    found = compare(AGE + np.sign(NOISE) * 3, ridge=AGE + np.sign(NOISE) * (3 + gain))
    assert found.verdicts[0].startswith("net: better by its intervals over people and over sites")
    test = next(d.test for d in found.differences if d.other == "ridge")
    assert test is not None
    assert test.p > 0.05
    said = f"the corrected test over 5 splits does not tell them apart, p {test.p:.3f}"
    assert said in found.verdicts[0]


def test_too_few_sites_give_no_interval_and_unknown_ones_are_called_so() -> None:
    predictions = {"net": AGE[None] + NOISE, "mean": np.full((1, N), AGE.mean()), "ridge": AGE[None] + 9}
    for sites, said in ((["a", "b", "c"], "3 sites"), (["only"], "1 site"), ([""], "sites unknown")):
        scans = SCANS.assign(site=[sites[i % len(sites)] for i in range(N)])
        found = evaluate_predictions(
            "net", predictions, scans, HAS, by_label(FOLD), protocol="x", constants=["mean"]
        )
        assert found.verdicts[0].startswith("net: better by its interval over people than")
        assert all(one.mae.sites is None for one in found.everyone)
        assert f"people, {said}, 5 splits" in heading(found)


def test_a_constant_that_differs_between_folds_has_no_correlation() -> None:
    constant = np.array([30.0, 31, 32, 33, 34])[FOLD]
    predictions = {"net": AGE[None] + NOISE, "mean": constant[None]}
    found = evaluate_predictions(
        "net", predictions, SCANS, HAS, by_label(FOLD), protocol="x", constants=["mean"]
    )
    mean = next(one for one in found.everyone if one.predictor == "mean")
    assert (mean.r.value, mean.r.people) == (None, None)
    assert mean.r2.value is not None


def test_people_whom_a_comparison_leaves_out_count_in_no_part_of_its_test() -> None:
    few = np.where(np.arange(N) % 3 == 0, AGE + OTHER_NOISE, np.nan)
    found = compare(AGE + NOISE, some=few)
    difference = next(d for d in found.differences if d.other == "some")
    asked = np.isfinite(few)
    gained = np.abs(NOISE) - np.abs(OTHER_NOISE)
    means = np.array([gained[asked & (fold == FOLD)].mean() for fold in range(5)])
    expected = corrected_t_test(means, 0.25)
    assert difference.test is not None
    assert expected is not None
    assert difference.test.p == pytest.approx(expected.p)


def test_the_model_from_fewer_modalities_is_no_rival() -> None:
    predictions = {
        name: np.atleast_2d(values)
        for name, values in {
            "net": AGE + 2 * NOISE, "mean": np.full(N, AGE.mean()), "net from smri alone": AGE,
            "ridge": AGE + 5 * OTHER_NOISE,
        }.items()
    }  # fmt: skip
    found = evaluate_predictions(
        "net", predictions, SCANS, HAS, by_label(FOLD), protocol="5 folds", constants=["mean"],
        of_less=["net from smri alone"],
    )  # fmt: skip
    assert "'ridge'" in found.verdicts[0]
    assert any(d.other == "net from smri alone" for d in found.differences)


def test_the_model_from_fewer_modalities_is_no_rival_with_several_seeds_either() -> None:
    predictions = {
        "net": np.stack([AGE + 2 * NOISE, AGE + 2 * OTHER_NOISE]),
        "mean": np.full((1, N), AGE.mean()),
        "net from smri alone": np.stack([AGE + 0.1 * NOISE, AGE + 0.1 * OTHER_NOISE]),
        "ridge": AGE[None] + 5 * OTHER_NOISE,
    }
    found = evaluate_predictions(
        "net", predictions, SCANS, HAS, by_label(FOLD), protocol="5 folds", constants=["mean"],
        of_less=["net from smri alone"],
    )  # fmt: skip
    assert len(found.verdicts) == 2
    for said in found.verdicts:
        assert "'ridge'" in said


def test_a_seed_that_is_an_ensemble_itself_is_not_called_one_network() -> None:
    predictions = {"net": np.stack([AGE + NOISE, AGE + OTHER_NOISE]), "mean": np.full((1, N), AGE.mean())}
    found = evaluate_predictions(
        "net", predictions, SCANS, HAS, by_label(FOLD), protocol="5 folds", constants=["mean"], networks=5
    )
    assert found.models == ("net, ensemble of 5 (mean of 2)", "net, ensemble of 10")


def test_several_seeds_are_shown_as_one_network_and_as_an_ensemble() -> None:
    found = compare(np.stack([AGE + 3 * NOISE, AGE + 3 * OTHER_NOISE]))
    one, ensemble = (m for m in found.everyone if m.predictor.startswith("net"))
    assert found.models == (one.predictor, ensemble.predictor)
    assert one.mae.value == pytest.approx(
        np.mean([np.abs(3 * NOISE).mean(), np.abs(3 * OTHER_NOISE).mean()])
    )
    assert ensemble.mae.value == pytest.approx(np.abs(1.5 * (NOISE + OTHER_NOISE)).mean())
    assert len(found.verdicts) == 2


def test_people_whom_the_model_cannot_predict_are_counted_and_in_no_row() -> None:
    model = AGE + NOISE
    model[:10] = np.nan
    found = compare(model, ridge=AGE + 2 * OTHER_NOISE)
    assert found.not_predicted == 10
    assert {one.scans for one in found.everyone} == {N - 10}
    mean = next(one for one in found.everyone if one.predictor == "mean")
    expected = performance(np.full(N - 10, AGE.mean()), AGE[10:])
    assert mean.mae.value == pytest.approx(expected.mae)
    assert "10 scans have too few features" in heading(found)


def test_a_predictor_of_fewer_people_is_compared_on_those_and_is_no_bar() -> None:
    few = np.where(np.arange(N) % 2 == 0, AGE, np.nan)
    found = compare(AGE + NOISE, perfect=few, ridge=AGE + 3 * OTHER_NOISE)
    difference = next(d for d in found.differences if d.other == "perfect")
    assert difference.scans == N / 2
    assert difference.mae.value == pytest.approx(np.abs(NOISE[::2]).mean())
    assert "'ridge'" in found.verdicts[0]


def test_an_error_without_a_constant_beside_it_is_refused() -> None:
    with pytest.raises(UsageError, match="constant"):
        evaluate_predictions(
            "net", {"net": AGE[None]}, SCANS, HAS, by_label(FOLD), protocol="x", constants=[]
        )


def test_groups_are_a_division_of_everybody() -> None:
    divisions = groups_of(SCANS, HAS)
    assert set(divisions) == {"sex", "age", "site", "modalities"}
    for name, parts in divisions.items():
        assert (sum(rows.astype(int) for rows in parts.values()) == 1).all(), name
    for name, rows in divisions["age"].items():
        low, high = int(name.split()[0]), int(name.split()[2])
        assert ((AGE[rows] >= low) & (AGE[rows] < high + 1)).all()


def test_small_sites_are_taken_together_and_unknown_ones_named() -> None:
    sites = ["large"] * (N - 8) + ["few"] * 4 + ["one"] + [""] * 3
    parts = groups_of(SCANS.assign(site=sites), HAS)["site"]
    assert {name: int(rows.sum()) for name, rows in parts.items()} == {
        "large": N - 8, "2 sites with fewer than 5 people": 5, "site unknown": 3,
    }  # fmt: skip


def test_a_division_into_one_group_is_left_out() -> None:
    assert "sex" not in groups_of(SCANS.assign(sex="M"), HAS)


def test_the_report_is_written_as_text_and_as_json(tmp_path: Path) -> None:
    found = compare(AGE + NOISE, ridge=AGE + 3 * OTHER_NOISE)
    record, text = write_report(tmp_path, found, "A title", {"run": "r"})
    read = json.loads(record.read_text())
    assert read["about"] == {"run": "r"}
    assert read["everyone"][0]["predictor"] == "net"
    assert read["everyone"][0]["mae"]["people"]["low"] < read["everyone"][0]["mae"]["value"]
    assert set(read["groups"]) == {"sex", "age", "site", "modalities"}
    assert text.read_text() == as_markdown(found, "A title")
    for word in ("# A title", "| net |", "## MAE by site", "than the strongest", "| F |"):
        assert word in text.read_text()
    titles = [table.title for table in tables(found)]
    assert titles == ["everybody", "differences", *(f"MAE by {d}" for d in found.groups)]


def test_a_screen_shows_each_predictor_once_beside_the_difference_from_the_ensemble() -> None:
    found = compare(np.stack([AGE + 3 * NOISE, AGE + 3 * OTHER_NOISE]), ridge=AGE + 6 * OTHER_NOISE)
    content = summary(found).content.set_index("predictor")
    assert list(content.index) == [one.predictor for one in found.everyone]
    column = content["ensemble minus this"]
    assert (column[list(found.models)] == "").all()
    assert column["ridge"].startswith("-")
    assert column["ridge"].count("|") == 1
    assert max(len(" ".join(row)) for row in content.reset_index().to_numpy()) < 110


def test_every_group_has_a_constant_beside_the_model() -> None:
    for table in tables(compare(AGE + NOISE, ridge=AGE + 3 * OTHER_NOISE))[2:]:
        assert {"net", "mean", "ridge"} <= set(table.content.columns)
        assert not (table.content == "").any().any()


def test_a_small_group_has_no_measure_that_is_not_defined() -> None:
    scans = SCANS.assign(site=["pair", "pair", *["rest"] * (N - 2)])
    found = evaluate_predictions(
        "net", {"net": AGE[None] + 1, "mean": np.full((1, N), 30.0)}, scans, HAS, by_label(FOLD),
        protocol="x", constants=["mean"],
    )  # fmt: skip
    pair = found.groups["site"]["1 site with fewer than 5 people"][0]
    assert pair.scans == 2
    assert pair.mae.value == pytest.approx(1)
    assert (pair.r.value, pair.r2.value, pair.mae.people) == (None, None, None)
