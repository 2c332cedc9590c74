"""What `brainage score` says at its end of the errors and the intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scored_tables import score_table, sidecar, with_uncertainty

from hpc_brainage.cli.score import _show, _show_accuracy
from hpc_brainage.evaluation.score_findings import score_findings
from hpc_brainage.scoring.runner import ScoringReport
from hpc_brainage.scoring.table import summary


def table(age: np.ndarray, brain_age: np.ndarray) -> pd.DataFrame:
    scans = score_table(len(age)).assign(diagnosis="", age=age, brain_age=brain_age)
    return scans.assign(pi90_lo=brain_age - 10, pi90_hi=brain_age + 10)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_errors_worse_than_the_cohort_s_mean_age_are_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    age = np.linspace(20, 26, 30)
    _show_accuracy(table(age, age[::-1]))
    found = said(capsys)
    assert (
        "WARNING: mean absolute error 3.10 years (everyone, 30 scans); saying their mean age, 1.55" in found
    )
    assert "): worse" in found
    assert "90 % intervals hold the age of 100.0% of 30 people, everyone" in found


def test_errors_below_those_of_the_mean_age_are_said_without_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    age = np.linspace(20, 60, 30)
    _show_accuracy(table(age, age + 2))
    found = said(capsys)
    assert "mean absolute error 2.00 years" in found
    assert "WARNING" not in found


def test_the_screen_says_of_the_same_people_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    scans = with_uncertainty(score_table(200))
    scans.loc[scans["diagnosis"] == "patient", "brain_age"] += 40
    checks = score_findings(scans, sidecar(scans)).tables["checks"].set_index("check")
    _show_accuracy(scans)
    found = said(capsys)
    assert found.startswith(checks.loc["Are they better than saying the mean age?", "finding"])
    assert "(control, " in found


def test_of_fewer_than_twenty_scans_with_ages_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    age = np.concatenate([np.linspace(20, 26, 19), np.full(5, np.nan)])
    _show_accuracy(table(age, np.full(24, 50.0)))
    assert said(capsys) == ""


def test_one_scan_is_said_as_one_and_its_minus_is_none_of_a_hyphen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gap = {"bag": -1.5, "bag_corrected": -0.001}
    scan = with_uncertainty(score_table(30)).head(1).assign(**gap, in_training=True, reason="", flags="a;b")
    _show(ScoringReport({}, scan, {"summary": summary(scan) | {"training_mean_gap": None}}, ()), "a.zarr")
    found = said(capsys)
    assert "first 1 of 1 row " in found
    assert "1 scan: 1 scored" in found
    assert "1 scan is of somebody in the model's training" in found
    assert "1 scan flagged a" in found
    assert "raw gap: mean −1.50 y, mean absolute 1.50 y" in found
    assert "corrected gap: mean 0.00 y (without" in found
    assert " −1.50 " in found
    assert "-1.50" not in found
    assert "-0.00" not in found


def test_who_has_scans_that_failed_is_told_how_to_look_for_damage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scans = with_uncertainty(score_table(30)).assign(in_training=False, reason="")
    for status, told in (("scored", False), ("failed", True)):
        scans.loc[0, "status"] = status
        about = {"summary": summary(scans) | {"training_mean_gap": None}}
        _show(ScoringReport({}, scans, about, ()), "a.zarr")
        assert ("`brainage verify a.zarr` says whether the store is damaged" in said(capsys)) == told
