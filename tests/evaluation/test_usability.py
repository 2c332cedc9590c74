"""Whether brain ages can be used in a cohort: each way in which they cannot is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scored_tables import SLOPE, not_scored, score_table, sidecar, with_uncertainty

from hpc_brainage.evaluation.score_findings import Findings, score_findings

BIAS = {"everyone": {"intercept": 8.0, "slope": SLOPE}}


def judged(table: pd.DataFrame, **model: Any) -> tuple[str, dict[str, str]]:
    """The verdict, and the judgement of each check."""
    found = findings(table, **model)
    checks = found.tables["checks"]
    return found.verdict, dict(zip(checks["check"], checks["judgement"], strict=True))


def findings(table: pd.DataFrame, **model: Any) -> Findings:
    return score_findings(table, sidecar(table, **({"bias": BIAS} | model)))


def test_a_good_model_in_a_new_cohort_can_be_used() -> None:
    verdict, checks = judged(with_uncertainty(score_table(400)))
    assert checks == dict.fromkeys(checks, "yes")
    assert verdict == "yes"
    assert len(checks) == 11


def test_people_without_a_diagnosis_are_those_whose_age_is_judged() -> None:
    found = findings(score_table(400))
    assert (found.judged, found.reference, found.group) == ("control", "control", "diagnosis")
    few = score_table(60)
    few.loc[10:, "diagnosis"] = "patient"
    assert findings(few).judged == "everyone"


def test_predictions_that_do_not_follow_age_cannot_be_used() -> None:
    table = score_table(300)
    predicted = np.random.default_rng(0).normal(45, 5, 300)
    table = table.assign(brain_age=predicted, bag=predicted - table["age"])
    verdict, checks = judged(table)
    assert verdict == "no"
    assert checks["Do the predictions follow age here?"] == "no"
    assert checks["Do they spread over age as in the training?"] == "no"


def test_a_cohort_of_one_age_gives_nothing_beyond_the_mean() -> None:
    table = score_table(300)
    age = np.random.default_rng(1).uniform(18, 26, 300)
    predicted = 24 + np.random.default_rng(2).normal(0, 4, 300)
    table = table.assign(age=age, brain_age=predicted, bag=predicted - age, bag_corrected=predicted - 24)
    found = findings(table)
    assert found.verdict == "no"
    follows = found.tables["checks"].iloc[1]
    assert follows["judgement"] == "no"
    assert "Their ages hardly differ" in follows["finding"]


def test_a_shifted_cohort_is_to_be_used_with_care() -> None:
    table = score_table(300)
    table[["brain_age", "bag", "bag_corrected"]] += 6.0
    verdict, checks = judged(table)
    assert checks["Are the gaps centred?"] == "care"
    assert verdict == "care"


def test_a_trend_that_the_model_s_line_does_not_take_out_is_seen() -> None:
    table = score_table(400)
    table["bag_corrected"] = table["bag"]
    assert judged(table)[1]["Is age out of the corrected gap?"] == "care"
    bent = score_table(400, noise=2.0)
    bend = 0.01 * (bent["age"] - 45) ** 2
    bent["bag_corrected"] += bend - bend.mean()
    bent["bag"] += bend - bend.mean()
    bent["brain_age"] += bend - bend.mean()
    found = findings(bent).tables["checks"].set_index("check").loc["Is age out of the corrected gap?"]
    assert found["judgement"] == "care"
    assert "the trend is bent" in found["finding"]


def test_another_slope_than_in_training_is_seen() -> None:
    assert (
        judged(score_table(400), bias={"everyone": {"slope": 0.5}})[1][
            "Do they spread over age as in the training?"
        ]
        == "care"
    )


def test_intervals_that_are_too_narrow_are_seen() -> None:
    table = with_uncertainty(score_table(400), noise=4.0)
    middle = (table["pi90_lo"] + table["pi90_hi"]) / 2
    narrow = table.assign(pi90_lo=middle - 2, pi90_hi=middle + 2)
    assert judged(narrow)[1]["Do the intervals hold?"] == "care"


@pytest.mark.parametrize(
    ("column", "value", "check", "judgement"),
    [
        ("age_in_training_range", False, "Are the ages those of the training?", "no"),
        ("site_seen", False, "Did the training know these sites?", "care"),
        ("held_out", True, "Are they other people than the training's?", "care"),
        ("flags", "qc_flag;codes_far_from_training", "Are the scans like those of the training?", "care"),
        ("qc_status", "fail", "Is the image quality sufficient?", "care"),
        ("bias_fit", "in_cohort", "Is the bias line independent of these scans?", "care"),
        ("flags", "predictions_nearly_constant", "Did scoring let the predictions stand?", "no"),
    ],
)  # fmt: skip
def test_each_circumstance_is_judged(column: str, value: object, check: str, judgement: str) -> None:
    table = score_table(100)
    table[column] = pd.array([value] * 100, dtype="boolean") if isinstance(value, bool) else value
    verdict, checks = judged(table)
    assert checks[check] == judgement
    assert verdict == judgement


def test_many_who_were_not_scored_ask_for_care_and_nobody_scored_is_no() -> None:
    table = score_table(100)
    assert judged(not_scored(table, list(range(5))))[1]["Was everybody scored?"] == "yes"
    assert judged(not_scored(table, list(range(20))))[1]["Was everybody scored?"] == "care"
    nobody = findings(not_scored(table, list(range(100))))
    assert nobody.verdict == "no"
    assert list(nobody.tables["checks"]["finding"]) == ["nobody was scored"]


def test_without_ages_or_with_a_few_people_it_cannot_be_told() -> None:
    table = score_table(100).assign(age=np.nan, bag=np.nan, bag_corrected=np.nan)
    table["age_in_training_range"] = pd.array([pd.NA] * 100, dtype="boolean")
    assert judged(table)[0] == "open"
    assert judged(score_table(10))[0] == "open"
    assert judged(score_table(1))[0] == "open"


def test_every_scan_is_in_the_flow_once() -> None:
    table = not_scored(score_table(100), [1, 2, 3])
    table.loc[10, ["age", "bag", "bag_corrected"]] = np.nan
    flow = findings(table).tables["flow"].set_index("step")["scans"]
    assert flow["in the table"] == 100
    assert flow["not scored: failed"] == 3
    assert flow["scored"] == 97
    assert flow["scored, of unknown age: no gap"] == 1
    assert flow["with a gap"] == 96
    assert findings(table).tables["reasons"].to_dict("records") == [
        {"reason": "cannot be read", "scans": 3}
    ]


def test_reasons_of_quality_are_counted_whatever_was_measured() -> None:
    table = score_table(4).assign(qc_status=["pass", "flag", "flag", "fail"])
    table["qc_reasons"] = [
        "",
        "mean FD 0.31 mm above 0.25",
        "mean FD 0.4 mm above 0.25; Euler number -120 below -100",
        "mean FD 1.2e+02 mm above 0.55",
    ]
    counted = findings(table).tables["quality"]
    assert [tuple(row) for row in counted.itertuples(index=False)] == [
        ("fail", "", 1),
        ("flag", "", 2),
        ("pass", "", 1),
        ("fail", "mean FD above 0.55", 1),
        ("flag", "Euler number below -100", 1),
        ("flag", "mean FD above 0.25", 2),
    ]
