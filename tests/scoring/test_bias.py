"""The bias correction's algebra, and why corrected ages must not be reported as accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import ScoringError
from hpc_brainage.evaluation.agreement import compare_errors
from hpc_brainage.evaluation.intervals import bootstrap_difference, bootstrap_errors
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.scoring.bias import (
    FEW_PEOPLE,
    FEWEST_OF_A_SEX,
    correct_gap,
    correct_table,
    doubtful_lines,
    expected_mean_gap,
    fit_bias_line,
    fit_bias_lines,
    line_names,
)


def predictions(slope: float = 0.6, noise: float = 6.0, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    age = draw.uniform(10, 80, n)
    return age, 45 + slope * (age - 45) + draw.normal(0, noise, n)


def table(n: int = 40, **changes: object) -> pd.DataFrame:
    """A score table's columns as far as bias is concerned."""
    age, predicted = predictions(n=n)
    own = pd.DataFrame(
        {
            "age": age,
            "sex": np.where(np.arange(n) % 2, "F", "M"),
            "status": "scored",
            "brain_age": predicted,
            "bag": predicted - age,
            "has_smri": True,
            "has_fmri": False,
        }
    )
    return own.assign(**changes)


def line(intercept: float = 18.0, slope: float = 0.6) -> BiasLine:
    return BiasLine(intercept=intercept, slope=slope, n=100, r=-0.5)


def test_the_corrected_gap_has_no_trend_where_it_was_fitted() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age, predicted=predicted)
    assert line is not None
    assert line.slope == pytest.approx(0.6, abs=0.02)
    assert line.residual_sd == pytest.approx(6.0, abs=0.2)
    corrected = correct_gap(predicted - age, age, line)
    assert abs(np.corrcoef(corrected, age)[0, 1]) < 1e-10
    assert abs(corrected.mean()) < 1e-10


def test_it_is_the_correction_of_de_lange_and_cole() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age, predicted=predicted)
    assert line is not None
    de_lange = predicted + age - (line.intercept + line.slope * age)
    np.testing.assert_allclose(correct_gap(predicted - age, age, line), de_lange - age, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.3, 1.5), st.floats(-30, 60))
def test_cole_s_gap_is_beheshti_s_divided_by_the_slope(slope: float, intercept: float) -> None:
    age, predicted = predictions(n=50)
    own = line(intercept, slope)
    cole = correct_gap(predicted - age, age, own, "cole")
    np.testing.assert_allclose(cole, (predicted - intercept) / slope - age, atol=1e-9)
    np.testing.assert_allclose(cole, correct_gap(predicted - age, age, own) / slope, atol=1e-9)


def test_a_shift_of_a_group_survives_a_line_fitted_on_others() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age[:2000], predicted=predicted[:2000])
    assert line is not None
    cases = predicted[2000:] + 5.0
    corrected = correct_gap(cases - age[2000:], age[2000:], line)
    assert corrected.mean() == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize("accuracy", [0.05, 0.3, 0.6, 0.9])
def test_corrected_ages_correlate_with_age_whatever_the_model(accuracy: float) -> None:
    """Butler et al. 2021; for a least-squares predictor r >= (1 + ρ²(1 - ρ²))^-1/2 >= 0.894."""
    draw = np.random.default_rng(1)
    age = draw.normal(50, 10, 20_000)
    signal = accuracy * (age - 50) / 10 + np.sqrt(1 - accuracy**2) * draw.normal(size=age.size)
    predicted = 50 + 10 * accuracy * signal
    line = fit_bias_line(age=age, predicted=predicted)
    assert line is not None
    corrected_age = age + correct_gap(predicted - age, age, line)
    r = np.corrcoef(corrected_age, age)[0, 1]
    assert r == pytest.approx((1 + accuracy**2 * (1 - accuracy**2)) ** -0.5, abs=0.01)
    assert r > 0.89
    raw = performance(predicted, age).r
    assert raw == pytest.approx(accuracy, abs=0.02)


def test_nothing_that_measures_accuracy_takes_an_age_that_was_made_with_the_age() -> None:
    age, predicted = predictions(n=50)
    adjusted = age + correct_gap(predicted - age, age, line())
    for made in (adjusted, adjusted[:50], 1.0 * adjusted, np.sort(adjusted)):
        with pytest.raises(ScoringError, match="have no accuracy"):
            performance(made, age)
        with pytest.raises(ScoringError, match="have no accuracy"):
            bootstrap_errors(made, age, np.arange(50))
        with pytest.raises(ScoringError, match="have no accuracy"):
            bootstrap_difference(predicted, made, age, np.arange(50))
        with pytest.raises(ScoringError, match="have no accuracy"):
            compare_errors(made, predicted, age, np.arange(50), np.arange(50))
    assert performance(predicted, age).n == 50


def test_too_few_people_or_one_age_give_no_line() -> None:
    age, predicted = predictions(n=19)
    assert fit_bias_line(age=age, predicted=predicted) is None
    assert fit_bias_line(age=np.full(50, 30.0), predicted=np.arange(50.0)) is None


def test_people_without_age_or_prediction_are_left_out_of_the_fit() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age, predicted=predicted)
    with_gaps = fit_bias_line(
        age=np.append(age, [np.nan, 40.0]), predicted=np.append(predicted, [40.0, np.nan])
    )
    assert line == with_gaps


def test_each_sex_has_its_line_where_there_are_enough_of_both() -> None:
    people = table(2 * FEWEST_OF_A_SEX)
    people.loc[people["sex"] == "F", "brain_age"] += 8.0
    everybody = np.full(len(people), "smri", dtype=object)
    lines = fit_bias_lines(people, everybody)
    assert set(lines) == {f"{group}{own}" for group in ("everyone", "smri") for own in ("", ", F", ", M")}
    between = [own.intercept + own.slope * 45 for own in (lines["smri, F"], lines["smri, M"])]
    assert between[0] - between[1] == pytest.approx(8.0, abs=2.5)
    fewer = fit_bias_lines(people[1:], everybody[1:])
    assert set(fewer) == {"everyone", "smri"}


def of_both_modalities(n: int = 300, alone: int = 30) -> tuple[pd.DataFrame, np.ndarray]:
    """People with both modalities and, of other ages, some with structural MRI alone, and what each has."""
    draw = np.random.default_rng(3)
    age = np.append(draw.uniform(10, 80, n), draw.uniform(8, 30, alone))
    both = np.arange(n + alone) < n
    smri, fmri, main = (45 + slope * (age - 45) + draw.normal(0, 3, len(age)) for slope in (0.6, 0.4, 0.7))
    people = table(n + alone, age=age, sex="M", brain_age=np.where(both, main, smri))
    people = people.assign(brain_age_smri_only=smri, brain_age_fmri_only=np.where(both, fmri, np.nan))
    return people, np.where(both, "smri+fmri", "smri").astype(object)


def test_the_line_of_a_modality_stands_on_everybody_who_has_it() -> None:
    people, modalities = of_both_modalities()
    lines = fit_bias_lines(people, modalities)
    assert {name: line.n for name, line in lines.items()} == {
        "everyone": 330, "fmri": 300, "smri": 330, "smri+fmri": 300
    }  # fmt: skip
    for name, column in (("smri", "brain_age_smri_only"), ("fmri", "brain_age_fmri_only")):
        known = people[column].notna()
        alone = people[known].assign(brain_age=people[column], has_smri=name == "smri")
        alone = alone.assign(has_fmri=~alone["has_smri"], bag=alone["brain_age"] - alone["age"])
        corrected = correct_table(alone, lines)
        assert set(corrected["bias_fit"]) == {f"{known.sum()} held-out training scans ({name})"}
        assert abs(corrected["bag_corrected"].mean()) < 1e-9
        assert abs(np.polyfit(alone["age"], corrected["bag_corrected"], 1)[0]) < 1e-12


def test_what_is_expected_of_a_cohort_is_by_the_modalities_of_its_scans() -> None:
    lines = {"everyone": line(), "smri": line(20.0, 0.5), "smri+fmri": line(10.0, 0.8)}
    rows = table(4, age=[10.0, 30.0, 50.0, np.nan], has_fmri=[False, False, True, True])
    assert expected_mean_gap(rows, lines) == pytest.approx((15 + 5 + 0) / 3)
    assert expected_mean_gap(rows.assign(age=np.nan), lines) is None
    assert expected_mean_gap(rows, {}) is None


def test_a_line_of_few_people_or_of_other_modalities_is_said() -> None:
    many = line()
    few = many.model_copy(update={"n": FEW_PEOPLE - 1})
    rows = table(5, has_smri=[True] * 3 + [False] * 2, has_fmri=[True, False, False, True, True])
    assert doubtful_lines(rows, {"smri+fmri": many, "smri": many, "fmri": many}) == ""
    said = doubtful_lines(rows, {"everyone, F": many, "everyone": many, "smri+fmri": many, "smri": few})
    assert said.split("; ") == [
        "of 2 scans from fmri the line is of predictions from whatever each person had",
        "of 2 scans from smri the line stands on 49 scans",
    ]


def test_the_closest_line_that_there_is_corrects_a_row_and_is_named() -> None:
    rows = table(5, has_fmri=[True, False, False, False, True], has_smri=[True, True, True, False, True])
    rows["sex"] = ["F", "F", "U", "F", "M"]
    rows["status"] = ["scored"] * 4 + ["failed"]
    lines = {name: line(slope=0.5 + 0.1 * i) for i, name in enumerate(
        ("everyone", "everyone, F", "everyone, M", "smri", "smri, F", "smri, M", "smri+fmri")
    )}  # fmt: skip
    names = line_names(rows, lines)
    assert names.tolist() == ["smri+fmri", "smri, F", "smri", "everyone, F", ""]
    corrected = correct_table(rows, lines)
    for place, name in enumerate(names[:4]):
        row = rows.iloc[place]
        expected = row["bag"] - (lines[name].intercept + (lines[name].slope - 1) * row["age"])
        assert corrected["bag_corrected"][place] == pytest.approx(expected)
        assert corrected["bias_fit"][place] == f"100 held-out training scans ({name})"
    assert np.isnan(corrected["bag_corrected"][4])
    assert corrected["bias_method"].tolist() == ["beheshti"] * 4 + ["none"]


def test_the_raw_gap_and_all_else_is_kept_by_every_method() -> None:
    rows = table()
    for method in ("beheshti", "cole", "none"):
        corrected = correct_table(rows, {"everyone": line()}, method)  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(corrected[list(rows.columns)], rows)
        assert set(corrected["bias_method"]) == {method}
    assert corrected["bag_corrected"].isna().all()
    assert set(corrected["bias_fit"]) == {""}


def test_cole_is_refused_where_predictions_barely_follow_age() -> None:
    rows = table(10, has_fmri=[True] * 3 + [False] * 7)
    lines = {"everyone": line(), "smri+fmri": line(slope=0.29)}
    with pytest.raises(ScoringError, match=r"0\.29 of smri\+fmri") as raised:
        correct_table(rows, lines, "cole")
    assert "3 of 10 scans" in str(raised.value)
    assert correct_table(rows, lines, "beheshti")["bag_corrected"].notna().all()
    # Nobody is corrected by it: no reason to refuse.
    assert correct_table(rows.assign(has_fmri=False), lines, "cole")["bag_corrected"].notna().all()


def test_a_line_of_the_cohort_itself_is_written_into_every_row() -> None:
    rows = table(3, status=["scored", "missing", "scored"])
    corrected = correct_table(rows, {"everyone": line()}, in_cohort=True)
    assert set(corrected["bias_fit"]) == {"in_cohort"}
    assert corrected["bias_method"].tolist() == ["beheshti", "none", "beheshti"]
