"""At a site whose local controls are known, z, p and intervals mean again what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.model.calibration import Calibration, Group
from hpc_brainage.numerals import number
from hpc_brainage.scoring.interpretation import COLUMNS as OF_MODEL
from hpc_brainage.scoring.normative import (
    against_norms,
    fit_norms,
    normative_z,
    p_accelerated,
    standardised_controls,
    z_of,
)
from hpc_brainage.scoring.site_calibration import Calibrated
from hpc_brainage.scoring.site_notes import notes_on_sites
from hpc_brainage.scoring.site_uncertainty import COLUMNS, SiteNorms, calibrate_uncertainty
from hpc_brainage.scoring.uncertainty import Predicted, fit_intervals, half_widths

Z, P, LOW, HIGH = COLUMNS
SITE = ("site_calibration", "site_offset", "site_scale", "bag_site_calibrated")


def people(n: int, seed: int, offset: float = 0.0, scale: float = 1.0) -> Predicted:
    """People of 18 to 70 years whose skewed gaps fall with age; a site adds to them and spreads them."""
    draw = np.random.default_rng(seed)
    age, sex = draw.uniform(18, 70, n), np.where(draw.random(n) < 0.5, "F", "M").astype(object)
    error = (draw.gamma(6, size=n) - 6) / np.sqrt(6) * (2.0 + 0.05 * age)
    predicted = 12 + 0.7 * age + offset + scale * error
    return Predicted(predicted, age, np.full(n, np.nan), sex, draw.integers(0, 5, n))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    known = people(3000, 0)
    intervals = fit_intervals(known)
    assert intervals is not None
    group = Group(n=3000, intervals=intervals, norms=fit_norms(known))
    return Calibration(controls="", n=3000, groups={"smri": group})


def table(calibration: Calibration, own: Predicted, site: str = "new", seen: bool = False) -> pd.DataFrame:
    group = calibration.groups["smri"]
    assert group.norms is not None
    half = half_widths(group.intervals, own)
    z = normative_z(group.norms, own.predicted - own.age, own.age, own.sex)
    made = dict.fromkeys(OF_MODEL, np.nan) | {
        "pi90_lo": own.predicted - half,
        "pi90_hi": own.predicted + half,
        "bag_z": z,
        "p_accelerated": p_accelerated(group.norms, z),
    }
    return pd.DataFrame(
        {
            "site": site, "site_seen": seen, "status": "scored", "age": own.age, "sex": own.sex,
            "site_calibration": "by line", "site_offset": np.nan, "site_scale": np.nan,
            "bag_site_calibrated": -99.0,
            "brain_age": own.predicted, "bag": own.predicted - own.age, "has_smri": True, "has_fmri": False,
            **made,
        }
    )  # fmt: skip


def held(scored: pd.DataFrame, low: str, high: str) -> float:
    return float(((scored["age"] >= scored[low]) & (scored["age"] <= scored[high])).mean())


@pytest.mark.parametrize(("offset", "scale"), [(5.0, 1.0), (-4.0, 1.5), (0.0, 1.0)])
def test_a_planted_site_is_taken_out_of_z_p_and_intervals(
    calibration: Calibration, offset: float, scale: float
) -> None:
    controls = table(calibration, people(300, 1, offset, scale))
    others = people(3000, 2, offset, scale)
    scored, found = calibrate_uncertainty(table(calibration, others), controls, calibration)
    assert found["new"]["smri"].shift.offset == pytest.approx(offset, abs=0.9)
    assert found["new"]["smri"].shift.scale == pytest.approx(scale, rel=0.12)
    inside = scored[scored[Z].notna()]
    assert len(inside) > 2800
    assert inside[Z].std() == pytest.approx(1, abs=0.12)
    assert (inside[P] < 0.05).mean() == pytest.approx(0.05, abs=0.02)
    assert held(scored, LOW, HIGH) == pytest.approx(0.9, abs=0.035)
    if offset:
        assert abs(scored["bag_z"].mean()) > 0.5
        assert held(scored, "pi90_lo", "pi90_hi") < 0.85
    apart = [*COLUMNS, *SITE]
    pd.testing.assert_frame_equal(
        scored.drop(columns=apart), table(calibration, others).drop(columns=list(SITE))
    )


@pytest.mark.parametrize(("offset", "scale"), [(5.0, 1.0), (-4.0, 1.5), (0.0, 1.0)])
def test_over_many_sites_nothing_of_a_planted_offset_is_left_in_z(
    calibration: Calibration, offset: float, scale: float
) -> None:
    """300 controls of one site leave it with a standard error of 0.08; those of twenty sites, with 0.02."""
    means = []
    for site in range(20):
        controls = table(calibration, people(300, 100 + site, offset, scale))
        others = table(calibration, people(1000, 300 + site, offset, scale))
        means.append(calibrate_uncertainty(others, controls, calibration)[0][Z].mean())
    assert np.mean(means) == pytest.approx(0, abs=0.05)
    assert np.std(means) < 0.12


@pytest.fixture(scope="module")
def heavy() -> Calibration:
    """Norms whose controls have long tails and a skew, as those of real models."""
    draw = np.random.default_rng(8)
    known = people(1500, 20)
    long = 0.6 * draw.standard_t(3, len(known.age)) + 0.3 * draw.exponential(1, len(known.age))
    known = dataclasses.replace(known, predicted=12 + 0.7 * known.age + 4 * long)
    return Calibration(
        controls="",
        n=1500,
        groups={"smri": Group(n=1500, intervals=fit_intervals(known), norms=fit_norms(known))},
    )


@pytest.mark.parametrize("n", [50, 300])
def test_a_site_that_does_not_differ_keeps_its_false_alarms_though_tails_are_long(
    heavy: Calibration, n: int
) -> None:
    """Sites are drawn from the norms' own controls, at one age."""
    norms = heavy.groups["smri"].norms
    assert norms is not None
    u = standardised_controls(norms)
    np.testing.assert_allclose(z_of(norms, u), norms.z, atol=1e-9)
    assert u.std() > 1.1
    draw, alarms, spreads = np.random.default_rng(9), [], []
    usual, spread = (
        float(each[0])
        for each in (
            -against_norms(norms, np.zeros(1), np.full(1, 40.0), np.array(["F"], dtype=object))[0],
            against_norms(norms, np.zeros(1), np.full(1, 40.0), np.array(["F"], dtype=object))[1],
        )
    )

    def drawn(many: int) -> pd.DataFrame:
        age, sex = np.full(many, 40.0), np.full(many, "F", dtype=object)
        predicted = 40.0 + usual + spread * draw.choice(u, many)
        return table(
            heavy, Predicted(predicted, age, np.full(many, np.nan), sex, np.zeros(many, dtype=int))
        )

    for _ in range(60):
        scored, _ = calibrate_uncertainty(drawn(400), drawn(n), heavy)
        alarms.append((scored[P] < 0.05).mean())
        spreads.append(scored["site_scale"].iat[0])
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.01)
    assert np.mean(spreads) == pytest.approx(1.0, abs=0.03)


def test_the_calibrated_gap_says_what_the_calibrated_z_says(calibration: Calibration) -> None:
    controls = table(calibration, people(80, 13, 3.0, 1.3))
    scored, found = calibrate_uncertainty(
        table(calibration, people(500, 14, 3.0, 1.3)), controls, calibration
    )
    known = scored[Z].notna()
    gap, z = scored["bag_site_calibrated"][known], scored[Z][known]
    clear = z.abs() > 0.5
    assert (np.sign(gap[clear]) == np.sign(z[clear])).all()
    assert abs(gap.mean()) < 1.0
    assert set(scored["site_offset"][known]) == {found["new"]["smri"].shift.offset}
    assert set(scored["site_calibration"][known]) == {
        f"{found['new']['smri'].shift.controls} local controls with smri around the norms"
    }
    assert set(scored["bag_site_calibrated"][~known]) <= {-99.0}
    notes = notes_on_sites(Calibrated(scored[known], controls, {}, found, ()))
    assert f"{number(found['new']['smri'].shift.offset, sign=True)} y taken out" in notes[0]
    assert f"{found['new']['smri'].shift.controls} local controls with smri around the norms" in notes[0]
    assert "intervals" in notes[0]


def test_a_few_absurd_controls_do_not_move_the_others(calibration: Calibration) -> None:
    controls = table(calibration, people(60, 15))
    absurd = controls.assign(bag=controls["bag"] + np.where(np.arange(60) < 2, 60.0, 0.0))
    asked = table(calibration, people(50, 16))
    a, b = (calibrate_uncertainty(asked, who, calibration)[1] for who in (controls, absurd))
    assert abs(a["new"]["smri"].shift.raw_offset - b["new"]["smri"].shift.raw_offset) < 1.0
    assert b["new"]["smri"].shift.scale < 1.4


def test_intervals_of_twenty_local_controls_hold_nine_in_ten_over_many_sites(
    calibration: Calibration,
) -> None:
    shares = []
    for site in range(40):
        offset = float(np.random.default_rng(site).normal(0, 4))
        controls = table(calibration, people(24, 100 + site, offset, 1.2))
        scored, _ = calibrate_uncertainty(
            table(calibration, people(200, 200 + site, offset, 1.2)), controls, calibration
        )
        shares.append(held(scored, LOW, HIGH))
    assert 0.9 <= np.mean(shares) <= 0.96


@pytest.mark.parametrize(
    ("n", "alarms_at_most", "spread_at_most"), [(20, 0.12, 1.18), (50, 0.08, 1.1), (200, 0.065, 1.05)]
)
def test_how_far_z_p_and_intervals_can_be_trusted_by_how_many_controls_a_site_has(
    calibration: Calibration, n: int, alarms_at_most: float, spread_at_most: float
) -> None:
    """Sixty sites, seeds 1000 on, that add 3 years and spread gaps 1.3 times as much.

    Of healthy people without calibration a fifth has p < 0.05. With twenty controls it still is nearly
    twice the twentieth that it should be, for offset and scale are shrunk; with 200 it is a twentieth.
    """
    found = []
    for site in range(60):
        controls = table(calibration, people(n, 1000 + site, 3.0, 1.3))
        others = table(calibration, people(300, 2000 + site, 3.0, 1.3))
        scored, _ = calibrate_uncertainty(others, controls, calibration)
        known = scored[scored[Z].notna()]
        found.append((held(scored, LOW, HIGH), (known[P] < 0.05).mean(), known[Z].mean(), known[Z].std()))
    covered, alarms, middle, spread = np.mean(np.array(found), axis=0)
    assert covered == pytest.approx(0.9, abs=0.025)
    assert 0.04 < alarms < alarms_at_most
    assert middle == pytest.approx(0.0, abs=0.2)
    assert 0.95 < spread < spread_at_most


def test_a_case_at_a_shifted_site_keeps_what_is_the_case_s_own(calibration: Calibration) -> None:
    controls = table(calibration, people(300, 3, 6.0))
    cases = people(300, 4, 6.0 + 8.0)
    scored, _ = calibrate_uncertainty(table(calibration, cases), controls, calibration)
    expected = table(calibration, people(300, 4, 8.0))["bag_z"]
    both = scored[Z].notna() & expected.notna()
    np.testing.assert_allclose(scored[Z][both].mean(), expected[both].mean(), atol=0.25)


def test_nothing_is_said_of_known_sites_few_controls_and_scans_that_were_not_scored(
    calibration: Calibration,
) -> None:
    few = pd.concat(
        [table(calibration, people(19, 5), "few"), table(calibration, people(60, 6), "known")],
        ignore_index=True,
    )
    asked = pd.concat(
        [
            table(calibration, people(5, 7), "few"),
            table(calibration, people(5, 8), "known", seen=True),
            table(calibration, people(5, 9), "elsewhere"),
            table(calibration, people(5, 10), "known").assign(status="failed", brain_age=np.nan),
        ],
        ignore_index=True,
    )
    scored, found = calibrate_uncertainty(asked, few, calibration)
    assert set(found) == {"known"}
    assert scored[list(COLUMNS)].isna().all(axis=None)


def test_without_intervals_of_the_controls_there_is_z_alone(calibration: Calibration) -> None:
    controls = table(calibration, people(60, 11)).assign(pi90_lo=np.nan)
    scored, found = calibrate_uncertainty(table(calibration, people(50, 12)), controls, calibration)
    assert isinstance(found["new"]["smri"], SiteNorms)
    assert np.isnan(found["new"]["smri"].widening)
    assert scored[Z].notna().any()
    assert scored[[LOW, HIGH]].isna().all(axis=None)


def both(scored: pd.DataFrame) -> pd.DataFrame:
    return scored.assign(has_fmri=True)


def test_each_set_of_modalities_is_calibrated_by_its_own_controls_where_there_are_enough(
    calibration: Calibration,
) -> None:
    """The site adds 6 years to ages from structural MRI, and nothing to those from both."""
    known = Calibration(
        controls="", n=3000, groups=calibration.groups | {"smri+fmri": calibration.groups["smri"]}
    )

    def here(n: int, n_both: int, seed: int) -> pd.DataFrame:
        alone, with_both = people(n, seed, 6.0), people(n_both, seed + 1)
        parts = [table(known, alone), both(table(known, with_both))]
        return pd.concat(parts, ignore_index=True)

    asked, many, few = here(400, 400, 30), here(150, 150, 32), here(150, 15, 34)
    scored, found = calibrate_uncertainty(asked, many, known)
    of_both = scored["has_fmri"]
    assert abs(scored[Z][~of_both].mean()) < 0.25
    assert abs(scored[Z][of_both].mean()) < 0.25
    assert held(scored[of_both], LOW, HIGH) == pytest.approx(0.9, abs=0.06)
    said = set(scored["site_calibration"][of_both & scored[Z].notna()])
    assert len(said) == 1
    assert said.pop().endswith("local controls with smri+fmri around the norms")

    scored, found = calibrate_uncertainty(asked, few, known)
    assert abs(scored[Z][~of_both].mean()) < 0.25
    assert scored[list(COLUMNS)][of_both].isna().all(axis=None)
    assert set(found["new"]) == {"smri"}


def test_the_same_controls_give_the_same_z_and_are_named_once(calibration: Calibration) -> None:
    """All controls of one site have both modalities, and other sites have a mixture."""
    known = Calibration(
        controls="", n=3000, groups=calibration.groups | {"smri+fmri": calibration.groups["smri"]}
    )
    mixed = table(known, people(80, 41, -5.0), "mixed")
    mixed["has_fmri"] = np.arange(80) < 40
    controls = pd.concat([both(table(known, people(40, 40, 2.0))), mixed], ignore_index=True)
    asked = pd.concat([table(known, people(30, 42, 2.0)), both(table(known, people(30, 43, 2.0)))])
    asked = asked.reset_index(drop=True)
    scored, found = calibrate_uncertainty(asked, controls, known)
    assert set(scored["has_fmri"][scored[Z].notna()]) == {True}
    assert set(found["new"]) == {"smri+fmri"}
    notes = notes_on_sites(Calibrated(scored[scored[Z].notna()], controls, {}, found, ()))
    assert len(notes) == 1
    assert notes[0].count("taken out") == 1
