"""Offsets of unseen sites: found from many local controls, shrunk with few, and never from the scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.scoring.bias import correct_table
from hpc_brainage.scoring.saved import SavedScores
from hpc_brainage.scoring.site_calibration import calibrate_sites
from hpc_brainage.scoring.site_notes import notes_on_sites

LINE = {"everyone": BiasLine(intercept=20.0, slope=0.6, n=500, r=-0.6, residual_sd=5.0)}


def scored(
    sites: dict[str, tuple[int, float, float]], *, seed: int = 0, first: int = 0, store: str = "s"
) -> pd.DataFrame:
    """People of sites, each with (how many, offset in years, scale), around the line with SD 5 years."""
    draw, parts = np.random.default_rng(seed), []
    for site, (n, offset, scale) in sites.items():
        age = draw.uniform(20, 70, n)
        predicted = 20 + 0.6 * age + offset + scale * draw.normal(0, 5, n)
        parts.append(pd.DataFrame({"site": site, "age": age, "brain_age": predicted}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        participant_id=[f"p{first + i}" for i in range(len(table))],
        session_id="", run="", sex="F", split="", diagnosis="", status="scored", site_seen=False,
        bag=table["brain_age"] - table["age"], has_smri=True, has_fmri=False, in_training=False,
        model="m", model_sha256="m", store_sha256=store,
    )  # fmt: skip


def local(sites: dict[str, tuple[int, float, float]], **settings: object) -> SavedScores:
    return SavedScores("controls", scored(sites, seed=1, first=100_000, **settings), {})  # type: ignore[arg-type]


def calibrated(sites: dict[str, tuple[int, float, float]], controls: SavedScores) -> pd.DataFrame:
    return calibrate_sites(correct_table(scored(sites), LINE), controls, LINE, "beheshti").table


def test_planted_offsets_are_recovered_from_many_controls() -> None:
    planted = {"A": (400, 0.5, 1.0), "B": (400, -4.0, 1.0), "C": (400, 2.0, 1.0)}
    found = calibrate_sites(correct_table(scored(planted), LINE), local(planted), LINE, "beheshti")
    notes = notes_on_sites(found)
    assert [note[:8] for note in notes] == ["site B: ", "site C: ", "site A: "]
    assert notes[0].startswith("site B: −")
    assert notes[0].endswith("from 400 local controls with smri around the bias line")
    for site, (_, offset, _) in planted.items():
        assert found.shifts[site]["smri"].offset == pytest.approx(offset, abs=0.7)
        assert found.shifts[site]["smri"].scale == pytest.approx(1.0, abs=0.1)
        rows = found.table["site"] == site
        assert abs(found.table["bag_site_calibrated"][rows].mean()) < 1.0
        assert found.table["bag_corrected"][rows].mean() == pytest.approx(offset, abs=0.8)
    assert set(found.table["site_calibration"]) == {"400 local controls with smri around the bias line"}


def test_a_planted_scale_is_recovered_from_many_controls() -> None:
    planted = {"A": (600, 0.0, 2.0), "B": (600, 0.0, 0.5)}
    table = calibrated(planted, local(planted))
    for site in planted:
        assert table["bag_site_calibrated"][table["site"] == site].std() == pytest.approx(5.0, abs=0.6)


def test_too_few_controls_a_known_site_and_an_unknown_one_are_left_as_they_are() -> None:
    planted = {"few": (30, 5.0, 1.0), "seen": (30, 5.0, 1.0), "": (5, 5.0, 1.0), "many": (30, 5.0, 1.0)}
    controls = local({"few": (19, 5.0, 1.0), "seen": (50, 5.0, 1.0), "many": (50, 5.0, 1.0)})
    table = correct_table(scored(planted).assign(site_seen=lambda t: t["site"] == "seen"), LINE)
    table.loc[94, "status"] = "failed"
    whole = calibrate_sites(table, controls, LINE, "beheshti")
    found = whole.table
    said = found.groupby("site")["site_calibration"].first()
    assert said["few"] == "none: 19 local controls, 20 are needed"
    assert said["seen"] == "none: the model knows the site"
    assert said[""] == "none: the site is unknown"
    assert said["many"] == "50 local controls with smri around the bias line"
    assert found["site_calibration"][94] == ""
    rows = found["bag_site_calibrated"].notna()
    assert set(found["site"][rows]) == {"many"}
    assert rows.sum() == 29
    pd.testing.assert_series_equal(found["bag_corrected"], table["bag_corrected"])
    assert notes_on_sites(whole)[1] == (
        "65 of 94 scans are not calibrated: 30 at few (19 local controls, 20 are needed), 30 at seen (the"
        " model knows the site), 5 (the site is unknown)"
    )


def test_a_scan_that_few_controls_of_its_site_are_like_is_not_calibrated() -> None:
    planted = {"A": (40, 3.0, 1.0)}
    of_both = np.arange(40) < 15
    controls = SavedScores("c", local(planted).table.assign(has_fmri=of_both, has_smri=True), {})
    asked = correct_table(scored(planted).assign(has_fmri=of_both), LINE)
    found = calibrate_sites(asked, controls, LINE, "beheshti")
    said = found.table["site_calibration"]
    assert set(said[~of_both]) == {"25 local controls with smri around the bias line"}
    assert set(said[of_both]) == {"none: 15 of 40 local controls with smri+fmri, too few"}
    assert found.table["bag_site_calibrated"][of_both].isna().all()
    few = SavedScores("c", controls.table.iloc[:30], {})
    found = calibrate_sites(asked, few, LINE, "beheshti")
    assert set(found.table["site_calibration"]) == {
        "30 local controls (15 with smri, 15 with smri+fmri) around the bias line"
    }


def test_controls_that_cannot_be_used_are_counted() -> None:
    controls = local({"A": (50, 2.0, 1.0)})
    controls.table.loc[0, "in_training"] = True
    controls.table.loc[1, "age"] = np.nan
    controls.table.loc[2, "participant_id"] = controls.table.loc[3, "participant_id"]
    controls.table.loc[4:6, "diagnosis"] = ["case", "control", "case"]
    found = calibrate_sites(correct_table(scored({"A": (5, 2.0, 1.0)}), LINE), controls, LINE, "beheshti")
    assert found.shifts["A"]["smri"].controls == 47
    assert found.notes[0].startswith("3 of 50 local controls are not used")
    assert found.notes[1] == "the local controls have several diagnoses: case, control"


def test_without_a_correction_the_raw_gap_is_shifted_and_not_scaled() -> None:
    planted = {"A": (300, 6.0, 3.0)}
    table = correct_table(scored(planted), LINE, "none")
    found = calibrate_sites(table, local(planted), LINE, "none").table
    assert set(found["site_scale"]) == {1.0}
    np.testing.assert_allclose(found["bag_site_calibrated"], found["bag"] - found["site_offset"])
