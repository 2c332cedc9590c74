"""Offset and scale of the gaps of a site, from its controls, shrunk as far as they are noise.

Of site s there are n_s gaps e without their trend in age, of mean m_s and variance v_s. What sites add is
taken to vary around zero with variance τ² (empirical Bayes; Efron and Morris 1973, J. Am. Stat. Assoc.
68:117):

    τ² = max(0, mean over sites of (m_s² - v_s / n_s)),   offset_s = m_s τ² / (τ² + v_s / n_s)

The scale is treated alike, as the logarithm of the SD of e against what the model's held-out training
people have, whose sampling variance is 1 / (2 (n_s - 1)).

A scanner need not shift predictions from structural MRI as it shifts those from both modalities. So scans
of a set of modalities that 20 of a site's controls have take an offset and a scale of these; where it is
fewer than 20 and at least half of the site's controls, those of all of them; and else none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

FEWEST_CONTROLS = 20
FEWEST_LIKE = 0.5
"""Share of a site's controls that have to be like a scan, for it to take what all of them give."""
_ROUNDS = 30
_T = TypeVar("_T")

BySite = dict[str, dict[str, _T]]
"""What counts for a scan: by its site, and by the modalities that it was scored from, as "smri+fmri"."""


@dataclass(frozen=True)
class SiteShift:
    """What a site adds.

    Attributes
    ----------
    controls : local controls that it was estimated from.
    offset : years, shrunk; `raw_offset` is their mean, of gaps cut off where that was asked for.
    scale : ratio of SDs, shrunk; 1 where there is nothing to compare with.
    of_modalities : how many of these controls were scored from what; empty where nobody asked.
    """

    controls: int
    offset: float
    raw_offset: float
    scale: float
    of_modalities: dict[str, int] = field(default_factory=dict)

    @property
    def from_whom(self) -> str:
        """ "34 local controls with smri+fmri", or "28 local controls (12 with smri, 16 with smri+fmri)"."""
        if len(self.of_modalities) == 1:
            return f"{self.controls} local controls with {next(iter(self.of_modalities))}"
        which = ", ".join(f"{count} with {of}" for of, count in self.of_modalities.items())
        return f"{self.controls} local controls ({which})"


def shifts_by_modalities(
    gap_N: np.ndarray,
    site_N: np.ndarray,
    modalities_N: np.ndarray,
    spread_N: np.ndarray,
    *,
    most_sds: float = np.inf,
) -> BySite[SiteShift]:
    """What scans of each site and set of modalities take: `site_shifts` of controls like them, or of all.

    A set is shrunk among the same set's estimates at other sites, and a site's controls of all sets among
    those of other sites. Where all of a site's controls have one set, the latter is taken.

    Parameters
    ----------
    modalities_N : what each was scored from, as "smri+fmri".
    """
    pooled = site_shifts(gap_N, site_N, spread_N, most_sds=most_sds)
    found: BySite[SiteShift] = {site: {} for site in pooled}
    made_of = {site: _counts(modalities_N[site_N == site]) for site in pooled}
    for of in sorted(set(modalities_N)):
        rows = modalities_N == of
        own = site_shifts(gap_N[rows], site_N[rows], spread_N[rows], most_sds=most_sds)
        for site, of_all in pooled.items():
            like = made_of[site].get(of, 0)
            if site in own and like < of_all.controls:
                found[site][of] = replace(own[site], of_modalities={of: like})
            elif like >= FEWEST_LIKE * of_all.controls:
                found[site][of] = replace(of_all, of_modalities=made_of[site])
    return found


def site_shifts(
    gap_N: np.ndarray, site_N: np.ndarray, spread_N: np.ndarray, *, most_sds: float = np.inf
) -> dict[str, SiteShift]:
    """Offset and scale of each site with at least 20 people, shrunk.

    Parameters
    ----------
    gap_N : gaps of controls without their trend in age, years, no NaN; one for each person.
    site_N : their sites; people of an unknown site ("") count nowhere.
    spread_N : the SD that such gaps have among the model's held-out training people, years; NaN if unknown.
        It has to be cut off alike.
    most_sds : a gap counts as if it were no further from the site's offset than this many of its SDs.
    """
    own = {str(name): site_N == name for name in sorted(set(site_N) - {""})}
    own = {name: rows for name, rows in own.items() if rows.sum() >= FEWEST_CONTROLS}
    if not own:
        return {}
    count = np.array([rows.sum() for rows in own.values()])
    found = [middle_and_scale(gap_N[rows], spread_N[rows], most_sds) for rows in own.values()]
    mean, variance, scales = (np.array(each) for each in zip(*found, strict=True))
    noise = variance / count
    offset = mean * _kept(mean, noise)
    with np.errstate(divide="ignore"):
        ratio = np.log(scales)
    known = np.isfinite(ratio)
    log_scale = np.zeros(len(own))
    if known.any():
        log_scale[known] = ratio[known] * _kept(ratio[known], 1 / (2 * (count[known] - 1)))
    return {
        name: SiteShift(int(n), float(o), float(m), float(np.exp(s)))
        for name, n, o, m, s in zip(own, count, offset, mean, log_scale, strict=True)
    }


def middle_and_scale(
    gap_N: np.ndarray, spread_N: np.ndarray, most_sds: float = np.inf
) -> tuple[float, float, float]:
    """Mean and variance of gaps, years, and their SD over `spread_N`, of gaps cut off as in `site_shifts`.

    Cut off, they are those of Huber (1964, proposal 2), but for a factor that cancels against a spread that
    was cut off alike.
    """
    if np.isinf(most_sds):
        return float(gap_N.mean()), float(gap_N.var(ddof=1)), float((gap_N / spread_N).std(ddof=1))
    middle = float(np.median(gap_N))
    scale = float(np.sqrt(np.mean(((gap_N - middle) / spread_N) ** 2)))
    for _ in range(_ROUNDS):
        most = most_sds * scale * spread_N
        cut = middle + np.clip(gap_N - middle, -most, most)
        middle = float(cut.mean())
        scale = float(np.sqrt(np.sum(((cut - middle) / spread_N) ** 2) / (len(cut) - 1)))
    return middle, float(cut.var(ddof=1)), scale


def _counts(modalities: np.ndarray) -> dict[str, int]:
    which, counts = np.unique(modalities.astype(str), return_counts=True)
    return dict(zip(which.tolist(), counts.tolist(), strict=True))


def _kept(estimate_S: np.ndarray, noise_S: np.ndarray) -> np.ndarray:
    """The share of each estimate that is not taken for noise."""
    between = max(0.0, float((estimate_S**2 - noise_S).mean()))
    return between / np.maximum(between + noise_S, np.finfo(float).tiny)
