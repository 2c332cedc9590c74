"""What a site that the model never saw adds to everybody's gap, from local controls, and taking it out.

The controls are other people than those who are scored for the study, and were scored before, by the same
model. Of site s they give n_s gaps e without their trend in age, of mean m_s and variance v_s. What sites
add is taken to vary around zero with variance τ², and an estimate is shrunk as far as it is noise
(empirical Bayes; Efron and Morris 1973, J. Am. Stat. Assoc. 68:117):

    τ² = max(0, mean over sites of (m_s² - v_s / n_s)),   offset_s = m_s τ² / (τ² + v_s / n_s)

The scale is treated alike, as the logarithm of the SD of e against what the model's held-out training
people have, whose sampling variance is 1 / (2 (n_s - 1)). A gap becomes (gap - offset_s) / scale_s, in a
column of its own.

The gap here is the one around the bias line. Where the model's norms speak of the person and of 20 of the
site's controls, `site_uncertainty` puts the gap around the norms in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.scans import scan_names
from hpc_brainage.scoring.bias import Method, correct_table, line_names
from hpc_brainage.scoring.saved import SavedScores

FEWEST_CONTROLS = 20
BY_LINE = " around the bias line"
"""What a row's `site_calibration` says of the gap that was calibrated."""
_SHOWN = 3
_ROUNDS = 30
_SAME_YEARS = 1e-4
"""The same scan gets the same age, but for the order of sums in single precision."""


@dataclass(frozen=True)
class SiteShift:
    """What a site adds.

    Attributes
    ----------
    controls : local controls that it was estimated from.
    offset : years, shrunk; `raw_offset` is their mean, of gaps cut off where that was asked for.
    scale : ratio of SDs, shrunk; 1 where there is nothing to compare with.
    """

    controls: int
    offset: float
    raw_offset: float
    scale: float


@dataclass(frozen=True)
class Calibrated:
    """The table with its new columns, the controls that were used, what was found, and what to mind."""

    table: pd.DataFrame
    controls: pd.DataFrame
    shifts: dict[str, SiteShift]
    notes: tuple[str, ...]


def check_controls(
    local: SavedScores, scans: pd.DataFrame, *, model_sha256: str, store_sha256: str
) -> None:
    """Make sure that the local controls are of this model, and are not among those to be scored.

    Parameters
    ----------
    local : the score table of the controls.
    scans : scan table of who is to be scored, of the store `store_sha256`.

    Raises
    ------
    ScoringError : the controls were scored by another model.
    UsageError : one of them is to be scored, too.
    """
    if local.one("model_sha256") != model_sha256:
        raise ScoringError(
            "the local controls were scored by another model",
            where=local.name,
            expected=f"model {model_sha256[:12]}",
            hint="score them with the model that scores the others",
        )
    keys = ["participant_id"] if local.one("store_sha256") == store_sha256 else ["participant_id", "site"]
    theirs = set(local.table[keys].itertuples(index=False, name=None))
    both = np.array([own in theirs for own in scans[keys].itertuples(index=False, name=None)], dtype=bool)
    if both.any():
        raise UsageError(
            f"{int(both.sum())} of the local controls are also to be scored",
            where=f"{local.name}: {', '.join(scan_names(scans[both].head(_SHOWN)))}",
            expected="other people: their site's offset would be their own gap",
            hint="leave them out with --where, or calibrate with fewer controls",
        )


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


def calibrate_sites(
    table: pd.DataFrame, local: SavedScores, lines: Mapping[str, BiasLine], method: Method
) -> Calibrated:
    """Add `site_calibration`, `site_offset`, `site_scale` and `bag_site_calibrated` to a score table.

    All are of the gap around the bias line.

    Only sites that the model has not seen are calibrated. The gap is `bag_corrected`, or `bag` where there
    is no correction; that of the controls is corrected by the same lines and in the same way.

    Raises
    ------
    ScoringError : none of the controls can be used.
    UsageError : one of them is also among the scored, under another name.
    """
    controls = local.scored
    controls = controls[np.isfinite(controls["age"]) & ~controls["in_training"].astype(bool)]
    again = controls["participant_id"].duplicated()
    notes = []
    if unused := len(local.table) - len(controls) + int(again.sum()):
        notes.append(
            f"{unused} of {len(local.table)} local controls are not used: not scored, of unknown age, in"
            " the model's training, or a further scan of a person"
        )
    controls = controls[~again].reset_index(drop=True)
    if controls.empty:
        raise ScoringError("none of the local controls can be used", where=local.name, hint=notes[0])
    _check_others(table, controls, local.name)
    if (kinds := sorted(set(controls["diagnosis"]) - {""})) and len(kinds) > 1:
        notes.append(f"the local controls have several diagnoses: {', '.join(kinds)}")
    controls = correct_table(controls, lines, method)
    site, spread = controls["site"].to_numpy(dtype=object), _spread(controls, lines, method)
    shifts = site_shifts(_gap(controls), site, spread)
    counts = {str(name): int((site == name).sum()) for name in set(site) - {""}}
    said, offset, scale = [], [], []
    for name, seen, status in zip(table["site"], table["site_seen"], table["status"], strict=True):
        shift = None if seen or status != "scored" else shifts.get(name)
        said.append("" if status != "scored" else _said(name, bool(seen), shift, counts))
        offset.append(np.nan if shift is None else shift.offset)
        scale.append(np.nan if shift is None else shift.scale)
    calibrated = table.assign(site_calibration=said, site_offset=offset, site_scale=scale)
    without_offset = _gap(calibrated) - calibrated["site_offset"]
    calibrated["bag_site_calibrated"] = without_offset / calibrated["site_scale"]
    if calibrated["site_offset"].isna().all():
        notes.append(f"no site is calibrated: {'; '.join(sorted(set(said) - {''}))}")
    notes += _ages_beyond(calibrated, controls)
    return Calibrated(calibrated, controls, shifts, tuple(notes))


def _check_others(table: pd.DataFrame, controls: pd.DataFrame, name: str) -> None:
    """Refuse controls that are to be found among the scored under another name.

    They are of the same site, sex and age, and the model gives them the same age by each modality, too.
    """
    said = [
        c
        for c in ("brain_age", "brain_age_smri_only", "brain_age_fmri_only")
        if c in table and c in controls
    ]
    taken = ["participant_id", "site", "sex", "age", *said]
    own, theirs = (t.loc[t["status"] == "scored", taken].round({"age": 2}) for t in (table, controls))
    both = theirs.merge(own, on=["site", "sex", "age"], suffixes=("", " too"))
    a, b = (both[[c + end for c in said]].to_numpy(dtype=float) for end in ("", " too"))
    both = both[np.isclose(a, b, rtol=0, atol=_SAME_YEARS, equal_nan=True).all(axis=1)]
    if len(both):
        pairs = (
            both[["participant_id", "participant_id too"]].head(_SHOWN).itertuples(index=False, name=None)
        )
        raise UsageError(
            f"{both['participant_id'].nunique()} of the local controls are also scored, under another name",
            where=f"{name}: {', '.join(f'{control} is {scored}' for control, scored in pairs)}",
            expected="other people: these have the same site, sex, age and predicted age",
            hint="leave them out with --where, or calibrate with fewer controls",
        )


def _kept(estimate_S: np.ndarray, noise_S: np.ndarray) -> np.ndarray:
    """The share of each estimate that is not taken for noise."""
    between = max(0.0, float((estimate_S**2 - noise_S).mean()))
    return between / np.maximum(between + noise_S, np.finfo(float).tiny)


def _gap(table: pd.DataFrame) -> np.ndarray:
    corrected, raw = (table[name].to_numpy(dtype=float) for name in ("bag_corrected", "bag"))
    return np.where((table["bias_method"] == "none").to_numpy(), raw, corrected)


def _spread(controls: pd.DataFrame, lines: Mapping[str, BiasLine], method: Method) -> np.ndarray:
    """SD of training people's corrected gaps around the line of each row; NaN where it is not known."""
    found = {
        name: (line.residual_sd or np.nan) / (line.slope if method == "cole" else 1.0)
        for name, line in lines.items()
    }
    if method == "none":
        found = {}
    return np.array([found.get(name, np.nan) for name in line_names(controls, lines)])


def _said(site: str, seen: bool, shift: SiteShift | None, counts: Mapping[str, int]) -> str:
    if shift is not None:
        return f"{shift.controls} local controls{BY_LINE}"
    if seen:
        return "none: the model knows the site"
    if not site:
        return "none: the site is unknown"
    return f"none: {counts.get(site, 0)} local controls, {FEWEST_CONTROLS} are needed"


def _ages_beyond(table: pd.DataFrame, controls: pd.DataFrame) -> list[str]:
    ages = controls.groupby("site")["age"].agg(["min", "max"])
    low, high = (table["site"].map(ages[end]).to_numpy(dtype=float) for end in ("min", "max"))
    age = table["age"].to_numpy(dtype=float)
    beyond = table["site_offset"].notna().to_numpy() & ((age < low) | (age > high))
    if not beyond.any():
        return []
    return [f"of calibrated scans, {int(beyond.sum())} younger or older than all controls of their site"]
