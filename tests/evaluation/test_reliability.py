"""Intraclass correlations and the error of measurement against published numbers and planted variances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.reliability import intraclass_correlations
from hpc_brainage.evaluation.reliability import test_retest as reliability

# Six targets and four judges (Shrout and Fleiss 1979, table 2).
PUBLISHED = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)


def test_the_published_example_comes_out() -> None:
    agreement, consistency = intraclass_correlations(PUBLISHED)
    assert agreement.value == pytest.approx(0.29, abs=0.005)
    assert consistency.value == pytest.approx(0.71, abs=0.005)


def test_the_published_intervals_come_out() -> None:
    """As R's psych and irr give them for the same table."""
    agreement, consistency = intraclass_correlations(PUBLISHED)
    assert agreement.interval is not None
    assert consistency.interval is not None
    assert agreement.interval.low == pytest.approx(0.019, abs=0.001)
    assert agreement.interval.high == pytest.approx(0.761, abs=0.001)
    assert consistency.interval.low == pytest.approx(0.342, abs=0.001)
    assert consistency.interval.high == pytest.approx(0.946, abs=0.001)


def planted(people: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Between people SD 6 years, of one measurement SD 2, and a shift of the second occasion."""
    draw = np.random.default_rng(seed)
    truth = draw.normal(50, 6, people)
    return truth + draw.normal(0, 2, people), truth + draw.normal(0, 2, people) + shift


def test_planted_variances_come_out() -> None:
    found = reliability(*planted(20_000, 0))
    assert found.icc_agreement.value == pytest.approx(36 / 40, abs=0.01)
    assert found.icc_consistency.value == pytest.approx(36 / 40, abs=0.01)
    assert found.sem == pytest.approx(2.0, abs=0.03)
    assert found.smallest_detectable_change == pytest.approx(1.96 * np.sqrt(2) * 2.0, abs=0.1)


def test_a_shift_of_the_second_occasion_lowers_agreement_and_not_consistency() -> None:
    found = reliability(*planted(20_000, 1, shift=4.0))
    between_occasions = 4.0**2 / 2
    assert found.icc_consistency.value == pytest.approx(36 / 40, abs=0.01)
    assert found.icc_agreement.value == pytest.approx(36 / (40 + between_occasions), abs=0.01)
    assert found.mean_difference == pytest.approx(4.0, abs=0.1)
    assert found.sem == pytest.approx(2.0, abs=0.03)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    found = [reliability(*planted(40, seed)) for seed in range(300)]
    for name in ("icc_agreement", "icc_consistency"):
        intervals = [getattr(one, name).interval for one in found]
        held = np.mean([i.low <= 0.9 <= i.high for i in intervals])
        assert 0.91 <= held <= 0.985, name
    held = np.mean([i.low <= 0 <= i.high for i in (one.mean_difference_interval for one in found)])
    assert 0.91 <= held <= 0.985


def test_nineteen_of_twenty_differences_lie_within_the_limits() -> None:
    first, second = planted(20_000, 2, shift=1.0)
    limits = reliability(first, second).limits
    difference = second - first
    assert np.mean((difference >= limits.low) & (difference <= limits.high)) == pytest.approx(
        0.95, abs=0.01
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(3, 20),
    st.floats(-50, 50),
    st.floats(0.1, 20),
    st.integers(0, 10_000),
)
def test_the_unit_and_the_origin_do_not_matter(n: int, origin: float, unit: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n, 2))
    for one, other in zip(
        intraclass_correlations(x), intraclass_correlations(origin + unit * x), strict=True
    ):
        assert one.value == pytest.approx(other.value, abs=1e-6)
        assert one.value is not None
        assert one.value <= 1.0 + 1e-12
        if one.interval is not None and one.value > 0:
            assert one.interval.low <= one.value + 1e-9
            assert one.value <= one.interval.high + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 20), st.integers(0, 10_000))
def test_which_scan_is_called_the_first_changes_signs_only(n: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, n))
    one, other = reliability(a, b), reliability(b, a)
    assert one.icc_agreement.value == pytest.approx(other.icc_agreement.value)
    assert one.mean_difference == pytest.approx(-other.mean_difference)
    assert one.sem == pytest.approx(other.sem)
    assert one.limits.low == pytest.approx(-other.limits.high)


def test_the_same_numbers_twice_repeat_perfectly() -> None:
    ages = np.array([10.0, 30.0, 50.0])
    found = reliability(ages, ages)
    assert found.icc_agreement.value == 1.0
    assert found.icc_agreement.interval is None
    assert found.sem == 0.0


def test_a_constant_has_no_intraclass_correlation() -> None:
    agreement, consistency = intraclass_correlations(np.full((5, 2), 40.0))
    assert agreement.value is None
    assert consistency.value is None


@pytest.mark.parametrize("x", [np.ones((1, 2)), np.ones((5, 1)), np.array([[1.0, np.nan], [2.0, 3.0]])])
def test_too_little_is_refused(x: np.ndarray) -> None:
    with pytest.raises(UsageError, match="cannot be told"):
        intraclass_correlations(x)
