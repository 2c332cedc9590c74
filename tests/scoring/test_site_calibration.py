"""Offsets of unseen sites: found from many local controls, shrunk with few, and never from the scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.scoring.bias import correct_table
from hpc_brainage.scoring.saved import SavedScores
from hpc_brainage.scoring.site_calibration import calibrate_sites, check_controls, site_shifts
from hpc_brainage.scoring.site_uncertainty import notes_on_sites

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
    planted = {"A": (400, 4.0, 1.0), "B": (400, -3.0, 1.0), "C": (400, 0.5, 1.0)}
    found = calibrate_sites(correct_table(scored(planted), LINE), local(planted), LINE, "beheshti")
    notes = notes_on_sites(found.table, found.shifts, {})
    assert notes[0].startswith("site A: +")
    assert notes[0].endswith("from 400 local controls around the bias line")
    assert len(notes) == 3
    for site, (_, offset, _) in planted.items():
        assert found.shifts[site].offset == pytest.approx(offset, abs=0.7)
        assert found.shifts[site].scale == pytest.approx(1.0, abs=0.1)
        rows = found.table["site"] == site
        assert abs(found.table["bag_site_calibrated"][rows].mean()) < 1.0
        assert found.table["bag_corrected"][rows].mean() == pytest.approx(offset, abs=0.8)
    assert set(found.table["site_calibration"]) == {"400 local controls around the bias line"}


def test_a_planted_scale_is_recovered_from_many_controls() -> None:
    planted = {"A": (600, 0.0, 2.0), "B": (600, 0.0, 0.5)}
    table = calibrated(planted, local(planted))
    for site in planted:
        assert table["bag_site_calibrated"][table["site"] == site].std() == pytest.approx(5.0, abs=0.6)


@settings(deadline=None, max_examples=60)
@given(st.floats(-10, 10), st.integers(20, 300), st.integers(1, 5), st.integers(0, 10_000))
def test_an_offset_is_shrunk_towards_zero_and_never_beyond(
    offset: float, n: int, sites: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    site = np.repeat([f"site {i}" for i in range(sites)], n)
    gap = offset + draw.normal(0, 5, len(site))
    for shift in site_shifts(gap, site, np.full(len(site), 5.0)).values():
        assert abs(shift.offset) <= abs(shift.raw_offset) + 1e-12
        assert shift.offset * shift.raw_offset >= 0
        assert shift.scale > 0


def test_the_fewer_the_controls_the_more_an_offset_is_shrunk() -> None:
    """Several draws of one site with an offset of 3 years, among sites with none."""

    def kept(n: int) -> float:
        shares = []
        for seed in range(60):
            draw = np.random.default_rng(seed)
            own = 3.0 + draw.normal(0, 8, n)
            others = draw.normal(0, 8, (4, n)).ravel()
            site = np.repeat(["own", "a", "b", "c", "d"], n)
            shift = site_shifts(np.concatenate([own, others]), site, np.full(5 * n, 8.0))["own"]
            shares.append(shift.offset / shift.raw_offset)
        return float(np.mean(shares))

    assert kept(20) < kept(100) < kept(1000)
    assert kept(20) < 0.6
    assert kept(1000) > 0.9


def test_shrinking_errs_less_than_the_plain_mean_where_sites_hardly_differ() -> None:
    draw = np.random.default_rng(0)
    plain, shrunk = [], []
    for _ in range(200):
        truth = draw.normal(0, 0.5, 6)
        site = np.repeat([f"{i}" for i in range(6)], 20)
        gap = np.repeat(truth, 20) + draw.normal(0, 6, 120)
        shifts = site_shifts(gap, site, np.full(120, 6.0))
        plain += [(shifts[f"{i}"].raw_offset - truth[i]) ** 2 for i in range(6)]
        shrunk += [(shifts[f"{i}"].offset - truth[i]) ** 2 for i in range(6)]
    assert np.mean(shrunk) < 0.6 * np.mean(plain)


def test_too_few_controls_a_known_site_and_an_unknown_one_are_left_as_they_are() -> None:
    planted = {"few": (30, 5.0, 1.0), "seen": (30, 5.0, 1.0), "": (5, 5.0, 1.0), "many": (30, 5.0, 1.0)}
    controls = local({"few": (19, 5.0, 1.0), "seen": (50, 5.0, 1.0), "many": (50, 5.0, 1.0)})
    table = correct_table(scored(planted).assign(site_seen=lambda t: t["site"] == "seen"), LINE)
    table.loc[94, "status"] = "failed"
    found = calibrate_sites(table, controls, LINE, "beheshti").table
    said = found.groupby("site")["site_calibration"].first()
    assert said["few"] == "none: 19 local controls, 20 are needed"
    assert said["seen"] == "none: the model knows the site"
    assert said[""] == "none: the site is unknown"
    assert said["many"] == "50 local controls around the bias line"
    assert found["site_calibration"][94] == ""
    rows = found["bag_site_calibrated"].notna()
    assert set(found["site"][rows]) == {"many"}
    assert rows.sum() == 29
    pd.testing.assert_series_equal(found["bag_corrected"], table["bag_corrected"])


def test_controls_that_cannot_be_used_are_counted() -> None:
    controls = local({"A": (50, 2.0, 1.0)})
    controls.table.loc[0, "in_training"] = True
    controls.table.loc[1, "age"] = np.nan
    controls.table.loc[2, "participant_id"] = controls.table.loc[3, "participant_id"]
    controls.table.loc[4:6, "diagnosis"] = ["case", "control", "case"]
    found = calibrate_sites(correct_table(scored({"A": (5, 2.0, 1.0)}), LINE), controls, LINE, "beheshti")
    assert found.shifts["A"].controls == 47
    assert found.notes[0].startswith("3 of 50 local controls are not used")
    assert found.notes[1] == "the local controls have several diagnoses: case, control"


def test_without_a_correction_the_raw_gap_is_shifted_and_not_scaled() -> None:
    planted = {"A": (300, 6.0, 3.0)}
    table = correct_table(scored(planted), LINE, "none")
    found = calibrate_sites(table, local(planted), LINE, "none").table
    assert set(found["site_scale"]) == {1.0}
    np.testing.assert_allclose(found["bag_site_calibrated"], found["bag"] - found["site_offset"])


def test_who_is_scored_is_no_control() -> None:
    people = scored({"A": (30, 0.0, 1.0)})
    same = SavedScores("controls", scored({"A": (40, 0.0, 1.0)}, first=29), {})
    with pytest.raises(UsageError, match="1 of the local controls are also to be scored"):
        check_controls(same, people, model_sha256="m", store_sha256="s")
    with pytest.raises(UsageError):
        check_controls(same, people, model_sha256="m", store_sha256="another")
    elsewhere = SavedScores("controls", same.table.assign(site="B"), {})
    check_controls(elsewhere, people, model_sha256="m", store_sha256="another")
    with pytest.raises(UsageError):
        check_controls(elsewhere, people, model_sha256="m", store_sha256="s")
    with pytest.raises(ScoringError, match="another model"):
        check_controls(local({"A": (30, 0.0, 1.0)}), people, model_sha256="x", store_sha256="s")


def test_a_control_that_is_scored_under_another_name_is_refused() -> None:
    controls = local({"A": (40, 0.0, 1.0), "B": (40, 0.0, 1.0)})
    people = scored({"A": (30, 0.0, 1.0), "B": (30, 0.0, 1.0)})
    again = controls.table.iloc[[5]].assign(
        participant_id="=renamed", brain_age=lambda t: t["brain_age"] + 1e-5
    )
    table = correct_table(pd.concat([people, again], ignore_index=True), LINE)
    with pytest.raises(
        UsageError, match="1 of the local controls are also scored, under another name"
    ) as caught:
        calibrate_sites(table, controls, LINE, "beheshti")
    assert "p100005 is =renamed" in str(caught.value)
    for other in ({"site": "B"}, {"sex": "M"}, {"age": 33.0}, {"brain_age": 40.0}, {"status": "failed"}):
        last = table.iloc[-1:].assign(**other)
        calibrate_sites(pd.concat([table[:-1], last], ignore_index=True), controls, LINE, "beheshti")
    alone = controls.table.assign(
        brain_age_smri_only=controls.table["brain_age"], brain_age_fmri_only=np.nan
    )
    by_both = table.assign(brain_age_smri_only=table["brain_age"], brain_age_fmri_only=30.0)
    calibrate_sites(by_both, SavedScores("controls", alone, {}), LINE, "beheshti")
    with pytest.raises(UsageError):
        calibrate_sites(
            by_both.assign(brain_age_fmri_only=np.nan), SavedScores("controls", alone, {}), LINE, "beheshti"
        )
