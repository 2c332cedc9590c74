"""Image quality as far as a cohort brings figures of it; nobody is dropped for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.scoring.quality import judge_quality


def rows(n: int, **columns: object) -> pd.DataFrame:
    table = pd.DataFrame({"status": ["scored"] * n, "site": "A", "has_smri": True, "has_fmri": True})
    return table.assign(**columns)


def test_a_cohort_without_figures_is_not_judged() -> None:
    found = judge_quality(rows(3))
    assert found.status.tolist() == ["", "", ""]
    assert found.reasons.tolist() == ["", "", ""]
    assert found.figures == ()


def test_marks_of_cat12_are_judged_by_their_per_cents() -> None:
    found = judge_quality(rows(5, cat12_IQR=[1.8, 3.0, 3.01, 5.6, np.nan]))
    assert found.status.tolist() == ["pass", "pass", "flag", "fail", ""]
    assert found.reasons[2] == "CAT12 IQR mark 3.01 above 3"
    assert found.reasons[3] == "CAT12 IQR mark 5.6 above 5.5"


def test_the_worst_figure_decides_and_every_reason_is_given() -> None:
    found = judge_quality(rows(1, cat12_IQR=[3.2], func_mean_fd=[0.8], func_perc_fd=[45.0]))
    assert found.status.tolist() == ["fail"]
    assert found.reasons[0] == (
        "CAT12 IQR mark 3.2 above 3; mean FD 0.8 mm above 0.55; volumes with FD above 0.2 mm 45 % above 20"
    )
    assert found.figures == ("cat12_IQR", "func_mean_fd", "func_perc_fd")


def test_figures_of_a_modality_that_was_not_used_say_nothing() -> None:
    table = rows(3, cat12_IQR=6.0, fd_mean=0.9)
    table["has_fmri"] = [True, False, True]
    table["has_smri"] = [False, True, False]
    table["status"] = ["scored", "scored", "missing"]
    found = judge_quality(table)
    assert found.status.tolist() == ["fail", "fail", ""]
    assert "FD" in found.reasons[0]
    assert "IQR" not in found.reasons[0]
    assert "FD" not in found.reasons[1]


def test_an_euler_number_is_compared_with_its_own_site() -> None:
    draw = np.random.default_rng(0)
    usual = {"A": -40.0, "B": -120.0}
    site = np.repeat(["A", "B"], 200)
    euler = np.array([usual[one] for one in site]) + draw.normal(0, 10, 400)
    euler[0], euler[200], euler[399] = -120.0, -118.0, -230.0
    found = judge_quality(rows(400, site=site, lh_euler=euler - 3, rh_euler=euler + 3))
    assert found.status[0] == "flag"
    assert found.status[200] == "pass"
    assert found.status[399] == "fail"
    assert "below the usual of the site" in found.reasons[0]
    assert found.reasons[399] == "Euler number -230 below -217"
    assert (found.status == "flag").mean() == pytest.approx(0.023, abs=0.02)


def test_a_site_of_few_scans_has_no_usual() -> None:
    euler = np.full(19, -40.0)
    euler[0] = -200.0
    assert set(judge_quality(rows(19, euler=euler)).status) == {"pass"}


def test_holes_are_not_taken_for_euler_numbers() -> None:
    found = judge_quality(rows(30, lh_euler=np.full(30, 25.0), rh_euler=np.full(30, -50.0)))
    assert set(found.status) == {""}
    assert "no surface has an Euler number above 2" in found.notes[0]


def test_words_where_numbers_should_be_are_said_and_not_guessed() -> None:
    found = judge_quality(rows(2, mean_fd=["low", "high"]))
    assert set(found.status) == {""}
    assert found.notes == ("mean_fd is no number, and says nothing of image quality",)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_more_motion_is_never_better(
    fd: list[float], random: object
) -> None:
    table = rows(len(fd), mean_FD=fd)
    found = judge_quality(table)
    order = np.argsort(fd)
    levels = found.status.map({"pass": 0, "flag": 1, "fail": 2}).to_numpy()[order]
    assert (np.diff(levels) >= 0).all()
    turned = judge_quality(table.iloc[::-1])
    assert turned.status.loc[table.index].tolist() == found.status.tolist()


@pytest.mark.real
def test_real_euler_numbers_and_motion_are_judged(real_data: Path) -> None:
    ixi = pd.read_csv(real_data / "ixi_smri" / "ixi_euler.csv")
    judged = judge_quality(rows(len(ixi), lh_euler=ixi["lh_euler"], rh_euler=ixi["rh_euler"]))
    assert judged.notes == ()
    assert 0 < (judged.status != "pass").mean() < 0.2
    abide = pd.read_csv(real_data / "abide1" / "participants.csv")
    abide = abide.assign(status="scored", has_smri=True, has_fmri=abide["has_fmri"] == 1)
    found = judge_quality(abide)
    assert found.figures == ("func_mean_fd", "func_perc_fd")
    assert set(found.status[abide["has_fmri"] & abide["func_mean_fd"].notna()]) == {"pass", "flag", "fail"}
    assert set(found.status[~abide["has_fmri"]]) == {""}
