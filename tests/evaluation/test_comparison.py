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
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.evaluation.report import as_markdown, heading, tables, write_report
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
    assert found.verdicts[0].startswith("net: better than the strongest simple predictor, 'ridge'")
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
    assert "no better than the strongest simple predictor, 'ridge'" in found.verdicts[0]


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
    for word in ("# A title", "| net |", "## MAE by site", "better than the strongest", "| F |"):
        assert word in text.read_text()
    titles = [table.title for table in tables(found)]
    assert titles == ["everybody", "differences", *(f"MAE by {d}" for d in found.groups)]


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
