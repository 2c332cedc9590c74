"""Whether brain ages can be used in a cohort: each way in which they cannot is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from checked_scores import BIAS, bias_line, findings, found_in, judged
from scored_tables import SLOPE, not_scored, score_table, sidecar, with_uncertainty

from hpc_brainage.evaluation.score_findings import score_findings
from hpc_brainage.evaluation.usability import better_than_the_mean


def test_a_good_model_in_a_new_cohort_can_be_used() -> None:
    verdict, checks = judged(with_uncertainty(score_table(400)))
    assert checks == dict.fromkeys(checks, "yes")
    assert verdict == "yes"
    assert len(checks) == 13


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


def shifted(years: float, people: int = 300) -> tuple[str, str]:
    """What is said of gaps that are all off by so much; they vary by 4 years."""
    table = score_table(people)
    control = (table["diagnosis"] == "control").to_numpy()
    off = years - table.loc[control, "bag_corrected"].mean()
    table[["brain_age", "bag", "bag_corrected"]] += off
    return found_in(table, "Are the gaps centred?")


def test_a_mean_gap_of_controls_that_matters_and_is_beyond_chance_is_no_centred_one() -> None:
    judgement, finding = shifted(-1.3)
    assert judgement == "care"
    assert finding.startswith("of control, mean corrected gap −1.30 years (−1.")
    assert " to −0." in finding
    assert shifted(-0.5)[0] == "yes"


def test_what_a_few_people_s_gaps_are_off_by_may_be_chance() -> None:
    assert shifted(-1.3, 50)[0] == "yes"
    assert shifted(-2.6, 50)[0] == "care"


def test_a_condition_may_shift_the_gaps_where_no_controls_stand_apart() -> None:
    assert "condition" not in shifted(3.0)[1]
    cases = score_table(300).assign(diagnosis="ASD")
    assert "or by a condition of theirs" in found_in(cases, "Are the gaps centred?")[1]


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


def test_a_corrected_gap_that_is_free_of_age_is_seldom_said_to_have_a_trend() -> None:
    draw, table = np.random.default_rng(0), score_table(24).assign(diagnosis="")
    cared = 0
    for _ in range(30):
        gap = draw.normal(0, 4, 24)
        chance = table.assign(bag=gap, bag_corrected=gap, brain_age=table["age"] + gap)
        cared += found_in(chance, "Is age out of the corrected gap?")[0] == "care"
    assert cared <= 2


def test_another_slope_than_in_training_is_seen() -> None:
    found = judged(score_table(400), bias={"everyone": bias_line(0.5)})[1]
    assert found["Do they spread over age as in the training?"] == "care"


def test_the_slope_is_held_against_that_of_the_same_modalities() -> None:
    lines = {"everyone": bias_line(0.5), "smri": bias_line(SLOPE), "smri+fmri": bias_line(0.2)}
    judgement, finding = found_in(
        score_table(400), "Do they spread over age as in the training?", bias=lines
    )
    assert judgement == "yes"
    assert finding.endswith("0.80 among held-out training people with the same modalities")
    mixed = score_table(400)
    mixed["has_fmri"] = mixed["age"] > 45  # the old have both: their line, which lies lower, joins theirs
    lines["smri+fmri"] = bias_line(SLOPE, -2.0)
    finding = found_in(mixed, "Do they spread over age as in the training?", bias=lines)[1]
    control = mixed[mixed["diagnosis"] == "control"]
    expected = SLOPE * control["age"] - 10.0 * control["has_fmri"]
    slope = np.polyfit(control["age"], expected, 1)[0]
    assert f"; {slope:.2f} among held-out training people" in finding


def test_a_bias_line_of_few_people_asks_for_care() -> None:
    table = score_table(100)
    question = "Does the bias line stand on enough people?"
    about = sidecar(table)
    for people, said in ((28, ["care"]), (400, [])):
        about["bias"] = {"lines": {"smri": bias_line(SLOPE, people=people)}}
        checks = score_findings(table, about).tables["checks"].set_index("check")
        assert list(checks.loc[checks.index == question, "judgement"]) == said


def test_a_slope_that_is_far_off_is_no_yes_for_being_uncertain() -> None:
    few = score_table(60, noise=14.0)
    line = findings(few).tables["age_line"].iloc[-1]
    expected = float(line["slope"]) + 0.12
    assert line["slope_low"] < expected < line["slope_high"]
    judgement, finding = found_in(
        few, "Do they spread over age as in the training?", bias={"everyone": bias_line(expected)}
    )
    assert judgement == "care"
    assert "the difference may be chance" in finding


@pytest.mark.parametrize(
    ("missing", "judgement", "words"),
    [(4, "yes", "0.6 % of 703"), (57, "care", "8 % of 703"), (300, "care", "hardly the model")],
)
def test_features_that_the_store_lacks_are_judged(missing: int, judgement: str, words: str) -> None:
    table = score_table(100).assign(imputed_smri=missing, imputed_fmri=0)
    said, finding = found_in(
        table, "Did the store have the model's features?", features={"smri": 703, "fmri": 6670}
    )
    assert said == judgement
    assert words in finding
    assert "fmri" not in finding
    assert ("come out too well" in finding) == (judgement == "care")


def test_some_scans_that_lack_many_features_are_seen_behind_the_mean() -> None:
    table = score_table(100).assign(imputed_smri=[100] * 15 + [0] * 85)
    said, finding = found_in(table, "Did the store have the model's features?", features={"smri": 703})
    assert (said, "in 15 scans" in finding) == ("care", True)


@pytest.mark.parametrize(
    ("column", "value", "check", "judgement"),
    [
        ("age_in_training_range", False, "Are the ages those of the training?", "no"),
        ("site_seen", False, "Did the training know these sites?", "care"),
        ("in_training", True, "Are they other people than the training's?", "care"),
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


def test_a_site_that_is_not_given_is_no_site() -> None:
    question = "Did the training know these sites?"
    table = score_table(100).assign(site_seen=False)
    assert found_in(table, question)[1] == "100 of 100 scans from sites that it did not know (4 sites)"
    nowhere = table.assign(site="")
    assert found_in(nowhere, question) == ("care", "their site is not given, so nobody can tell")
    trained = nowhere.assign(in_training=True)
    assert found_in(trained, question) == ("yes", "not given, but people of the training")
    trained.loc[:1, "in_training"] = False
    assert found_in(trained, question) == (
        "care",
        "the site of 100 of 100 scans is not given, and 2 of them are of other people than the training's",
    )
    some = table.assign(site=["here"] * 60 + [""] * 40)
    assert found_in(some, question)[1] == (
        "60 of 100 scans from sites that it did not know (1 site); the site of 40 of 100 scans is not given"
    )
    known = some.assign(site_seen=some["site"] == "here")
    assert found_in(known, question)[1] == "the site of 40 of 100 scans is not given"


@pytest.mark.parametrize(
    ("column", "value"), [("flags", "model_no_better_than_mean"), ("bias_fit", "in_cohort"), ("sex", "F")]
)
def test_a_finding_does_not_say_the_judgement_again(column: str, value: str) -> None:
    said = findings(score_table(100).assign(**{column: value})).tables["checks"]["finding"]
    assert not said.str.match("(yes|care|no|open)[:,]").any()


def own_evidence(model: float, constant: float, ridge: float, surely: float | None = 0.2) -> dict[str, Any]:
    """Held-out errors as a sidecar brings them; differences known to within `surely` years."""
    errors = {name: {"n": 300, "mae": mae, "rmse": mae, "r2": 0.4, "r": 0.6} for name, mae in (
        ("model", model), ("ridge", ridge), ("mean_predictor", constant), ("median_predictor", constant),
    )}  # fmt: skip
    found: dict[str, Any] = {"folds": 5, "ridge_predictor": "ridge, smri", "everyone": errors}
    if surely is not None:
        for name, rival in (("minus_constant", constant), ("minus_ridge", ridge)):
            by = model - rival
            found[name] = {"value": by, "low": by - surely, "high": by + surely}
    return found


def test_a_ridge_that_errs_less_asks_for_care_and_is_named_with_its_errors() -> None:
    question, table = "Does the model do as well as a ridge regression?", score_table(300)
    judgement, finding = found_in(table, question, evidence=own_evidence(4.0, 9.0, 3.5))
    assert judgement == "care"
    assert (
        "(ridge, smri) errs less than the model (3.50 against 4.00 years; model minus ridge +0.50"
        in finding
    )
    assert found_in(table, question, evidence=own_evidence(4.0, 9.0, 3.9))[0] == "yes"
    assert found_in(table, question, evidence=own_evidence(4.0, 9.0, 5.0))[0] == "yes"
    assert found_in(table, question, evidence=own_evidence(4.0, 9.0, 3.9, None))[0] == "care"
    assert question not in judged(table)[1]


def test_a_model_that_is_not_told_apart_from_a_constant_age_is_said_with_its_numbers() -> None:
    table = score_table(300).assign(flags="model_no_better_than_mean")
    found = found_in(table, "Did scoring let the predictions stand?", evidence=own_evidence(4.0, 4.1, 5.0))
    assert found[0] == "no"
    assert "the model errs less than a constant age, but is not told apart from one" in found[1]
    assert "4.00 against 4.10 years, difference −0.10, 95 % −0.30 to +0.10" in found[1]


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


def test_a_tie_with_the_mean_age_is_no_and_a_shift_is_named_as_one() -> None:
    question, table = (
        "Are they better than saying the mean age?",
        score_table(80).assign(diagnosis="control"),
    )
    draw = np.random.default_rng(5)
    age = draw.uniform(20, 30, 80)

    def said_of(predicted: np.ndarray) -> tuple[str, str]:
        gap = predicted - age
        return found_in(table.assign(age=age, brain_age=predicted, bag=gap, bag_corrected=gap), question)

    judgement, finding = said_of(25 + draw.normal(0, 0.8, 80))
    assert judgement == "no"
    assert finding.endswith("): a tie")
    judgement, finding = said_of(age + 2.5 + draw.normal(0, 1, 80))
    assert judgement == "care"
    assert "): a tie. All of them are shifted, by +2." in finding
    assert "and without that the model errs by 0." in finding
    judgement, finding = said_of(age + 6 + draw.normal(0, 1, 80))
    assert judgement == "no"
    assert "): worse. All of them are shifted, by +" in finding
    assert said_of(age + draw.normal(0, 1, 80))[0] == "yes"


def test_a_model_that_knows_nothing_is_not_excused_by_a_shift() -> None:
    question = "Are they better than saying the mean age?"
    draw, excused = np.random.default_rng(1), 0
    for _ in range(60):
        table = score_table(60).assign(diagnosis="", age=draw.normal(30, 8, 60))
        predicted = 33 + draw.normal(0, 0.2, 60)
        check = better_than_the_mean(table.assign(brain_age=predicted), "everyone")
        assert check[0] == question
        excused += check[2] == "care"
    assert excused <= 5
    constant = table.assign(brain_age=34.65)
    assert better_than_the_mean(constant, "everyone")[2] == "no"


def test_an_answer_is_not_cut_where_a_name_has_a_full_stop() -> None:
    table = score_table(100).assign(diagnosis="M. Parkinson")
    table[["brain_age", "bag", "bag_corrected"]] += 6.0
    table = with_uncertainty(table)
    briefs = findings(table).tables["against"].set_index("check")["brief"]
    assert briefs["Are there people without a diagnosis?"] == "All of them are of the group M. Parkinson"
    centred = briefs["Are the gaps centred?"]
    assert centred.startswith("Of M. Parkinson, mean corrected gap +6.75 years")
    assert "as by a scanner" not in centred
    assert "as by a scanner" in found_in(table, "Are the gaps centred?")[1]


def test_the_answers_begin_large_and_name_no_flag() -> None:
    table = score_table(100).assign(flags="model_no_better_than_mean", site_seen=False)
    briefs = findings(table).tables["against"]["brief"]
    assert len(briefs) > 1
    assert all(brief[0] == brief[0].upper() for brief in briefs)
    assert not briefs.str.contains("_").any()


@pytest.mark.parametrize("group", ["diagnosis", None])
def test_a_table_of_patients_alone_is_no_table_of_healthy_people(group: str | None) -> None:
    question = "Are there people without a diagnosis?"
    table = with_uncertainty(score_table(100)).assign(diagnosis="ASD")
    found = score_findings(table, sidecar(table, bias=BIAS), group)
    assert found.judged == "ASD"
    assert set(found.tables["accuracy"]["people"]) == {"ASD"}
    check = found.tables["checks"].set_index("check").loc[question]
    assert check["judgement"] == "care"
    assert "no accuracy, and no coverage, of healthy people" in check["finding"]
    assert question not in judged(table.assign(diagnosis="TC"))[1]
    assert findings(table.assign(diagnosis="")).judged == "everyone"
