"""Numbers as a reader sees them."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_brainage.numerals import interval, many, number, percent, probability


@pytest.mark.parametrize(
    ("value", "options", "said"),
    [
        (-1.234, {}, "−1.23"),
        (1234.5, {"decimals": 1}, "1,234.5"),
        (0.5, {"sign": True}, "+0.50"),
        (-0.001, {"sign": True}, "0.00"),
        (0.256, {"decimals": 0, "percent": True}, "26 %"),
        (np.nan, {}, "–"),
    ],
)  # fmt: skip
def test_numbers_are_said_as_a_reader_expects(value: float, options: dict[str, int], said: str) -> None:
    assert number(value, **options) == said  # type: ignore[arg-type]


def test_an_interval_is_said_only_where_there_is_one() -> None:
    assert interval(-1, 2.5, sign=True) == "−1.00 to +2.50"
    assert interval(0.8, 0.95, 0, percent=True) == "80 to 95"
    assert interval(np.nan, 1) == ""


@pytest.mark.parametrize(("share", "said"), [(0.0, "0 %"), (0.004, "0.4 %"), (0.05, "5 %"), (1.0, "100 %")])
def test_a_small_share_keeps_a_decimal(share: float, said: str) -> None:
    assert percent(share) == said


def test_a_p_value_is_never_nought() -> None:
    assert probability(0.0312) == "0.031"
    assert probability(1e-9) == "<0.001"


def test_a_count_agrees_with_its_noun() -> None:
    assert many(1, "scan") == "1 scan"
    assert many(1200, "scan") == "1,200 scans"
    assert many(2, "person", "people") == "2 people"
