"""Offset and scale of a site: shrunk as far as they are noise, and of the modalities of those concerned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.scoring.site_shifts import shifts_by_modalities, site_shifts


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


def by_modalities(n_both: int, n_one: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaps at a site that adds 4 years to ages from both modalities, and takes 3 from those of one."""
    draw = np.random.default_rng(0)
    gap = np.concatenate([draw.normal(4, 2, n_both), draw.normal(-3, 2, n_one)])
    return gap, np.full(len(gap), "A", dtype=object), np.repeat(["smri+fmri", "smri"], [n_both, n_one])


def test_each_set_of_modalities_with_twenty_controls_has_an_offset_of_its_own() -> None:
    gap, site, modalities = by_modalities(60, 40)
    found = shifts_by_modalities(gap, site, modalities, np.full(100, 2.0))["A"]
    assert {of: shift.of_modalities for of, shift in found.items()} == {
        "smri+fmri": {"smri+fmri": 60}, "smri": {"smri": 40},
    }  # fmt: skip
    assert found["smri+fmri"].offset == pytest.approx(4.0, abs=0.7)
    assert found["smri"].offset == pytest.approx(-3.0, abs=0.7)


def test_scans_with_fewer_controls_like_them_take_the_offset_of_all_if_these_are_half() -> None:
    def those(n_both: int, n_one: int) -> dict[str, dict[str, int]]:
        gap, site, modalities = by_modalities(n_both, n_one)
        found = shifts_by_modalities(gap, site, modalities, np.full(len(gap), 2.0))
        return {of: shift.of_modalities for of, shift in found.get("A", {}).items()}

    assert those(60, 19) == {"smri+fmri": {"smri+fmri": 60}}
    assert those(16, 14) == {"smri+fmri": {"smri": 14, "smri+fmri": 16}}
    assert set(those(15, 15)) == {"smri", "smri+fmri"}
    assert those(10, 9) == {}


def test_the_same_controls_give_the_same_offset_whatever_sets_other_sites_have() -> None:
    """One site has both modalities alone; the others, that shift much, a mixture."""
    draw, site = np.random.default_rng(3), np.repeat(["A", "B", "C"], 30).astype(object)
    shift = np.repeat([1.0, 6.0, -6.0], 30)
    modalities = np.where((site == "A") | (np.arange(90) % 2 == 0), "smri+fmri", "smri")
    gap, spread = shift + draw.normal(0, 4, 90), np.full(90, 4.0)
    own = shifts_by_modalities(gap, site, modalities, spread)["A"]
    assert set(own) == {"smri+fmri"}
    assert own["smri+fmri"].offset == site_shifts(gap, site, spread)["A"].offset
    alike = site_shifts(gap[modalities == "smri+fmri"], site[modalities == "smri+fmri"], spread[:60])
    assert own["smri+fmri"].offset != alike["A"].offset
