"""What `brainage score` says at its end of the errors and the intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.cli.score import _show_accuracy


def table(age: np.ndarray, brain_age: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "status": "scored",
            "age": age,
            "brain_age": brain_age,
            "pi90_lo": brain_age - 10,
            "pi90_hi": brain_age + 10,
        }
    )


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_errors_no_better_than_the_cohort_s_mean_age_are_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    age = np.linspace(20, 26, 30)
    _show_accuracy(table(age, age[::-1]), 1.0)
    found = said(capsys)
    assert "WARNING: mean absolute error 3.10 y" in found
    assert "mean age of these 30 scans: 1.55 y" in found
    assert "90 % intervals hold the age of 100.0 %" in found.replace("100.0%", "100.0 %")


def test_errors_below_those_of_the_mean_age_are_said_without_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    age = np.linspace(20, 60, 30)
    _show_accuracy(table(age, age + 2), 1.0)
    found = said(capsys)
    assert "mean absolute error 2.00 y" in found
    assert "WARNING" not in found


def test_of_fewer_than_twenty_scans_with_ages_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    age = np.concatenate([np.linspace(20, 26, 19), np.full(5, np.nan)])
    _show_accuracy(table(age, np.full(24, 50.0)), 1.0)
    assert said(capsys) == ""
