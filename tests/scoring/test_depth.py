"""A table that makes no sense is refused, and one that does is left alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import ScoringError
from hpc_brainage.model.bundle import ModelInfo, TrainingPeople
from hpc_brainage.scoring.depth import NEARLY_CONSTANT, judge_table
from hpc_brainage.scoring.flags import FLAGS, join_flags

INFO = ModelInfo(
    name="m", config=RunConfig(), members=(), tables={}, features={"smri": tuple("abcdefgh")}, units={},
    volumes={}, salt="", seen={}, software={},
    training=TrainingPeople(
        people=9, scans=9, age_min=10, age_max=80, age_mean=45, age_sd=20, sexes={}, sites={},
        with_modality={}, where=None, store="s", store_sha256="",
    ),
)  # fmt: skip


def table(brain_age: np.ndarray, beyond: np.ndarray | float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "status": "scored",
            "brain_age": brain_age,
            "out_of_range_smri": beyond,
            "out_of_range_fmri": np.nan,
            "flags": ["sex_unknown"] + [""] * (len(brain_age) - 1),
        }
    )


def test_ages_of_humans_pass() -> None:
    given = table(np.linspace(20, 70, 30))
    assert judge_table(given, INFO) == ()
    assert (given["flags"].iloc[1:] == "").all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (table(np.linspace(-80, 10, 30)), "of no human"),
        (table(np.full(30, 44.4)), "the same age"),
        (table(np.linspace(20, 70, 30), 3.0), "smri features lie beyond"),
    ],
)
def test_nonsense_is_refused_and_says_what_to_check(given: pd.DataFrame, message: str) -> None:
    with pytest.raises(ScoringError, match=message) as caught:
        judge_table(given, INFO)
    assert "units" in str(caught.value)
    notes = judge_table(given, INFO, accept=True)
    assert any(message in note and note.startswith("WARNING") for note in notes)


def test_a_few_strange_scans_do_not_condemn_a_table() -> None:
    ages = np.linspace(20, 70, 30)
    ages[:14] = 300.0
    assert judge_table(table(ages), INFO) == ()
    beyond = np.where(np.arange(30) < 15, 8.0, 0.0)
    assert judge_table(table(np.linspace(20, 70, 30), beyond), INFO) == ()


def test_predictions_that_hardly_differ_are_flagged_in_every_row() -> None:
    given = table(44 + np.linspace(0, 0.5, 30))
    (note,) = judge_table(given, INFO)
    assert NEARLY_CONSTANT in note
    assert given["flags"].tolist() == [f"sex_unknown;{NEARLY_CONSTANT}", *[NEARLY_CONSTANT] * 29]
    few = table(np.array([44.0, 44.1, 44.2]))
    assert judge_table(few, INFO) == ()


def test_two_scans_are_too_few_to_judge() -> None:
    assert judge_table(table(np.array([-90.0, 400.0])), INFO) == ()


def test_flags_are_joined_in_order_and_only_for_those_who_are_meant() -> None:
    raised = {
        "age_unknown": np.array([True, False, True, True]),
        "sex_unknown": np.array([True, False, False, True]),
    }
    among = np.array([True, True, True, False])
    assert join_flags(raised, among).tolist() == ["age_unknown;sex_unknown", "", "age_unknown", ""]
    with pytest.raises(AssertionError, match="without a meaning"):
        join_flags({"no such flag": among}, among)
    assert all(FLAGS.values())
