"""What is removed from the time series of a scan, as fMRIPrep measured it: motion, tissue signals, drifts.

The strategies are called as in `nilearn.interfaces.fmriprep.load_confounds_strategy`, whose defaults of
nilearn 0.14 are written down here, so that a name means the same numbers whatever version is installed.
A column that is missing is a refusal, never a weaker cleaning. Benchmarks: Ciric et al. 2017, NeuroImage
154; Wang et al. 2024, PLOS Computational Biology 20.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.image_check import missing_file
from hpc_brainage.cohorts.reading import Confounds
from hpc_brainage.errors import ScanRefused

FD_MM = 0.5
STANDARDISED_DVARS = 1.5
SHORTEST_SEGMENT = 5
# fMRIPrep's cosines have periods down to this one; a run that is shorter has none.
SLOWEST_PERIOD_S = 128.0

_FULL = ("", "_derivative1", "_power2", "_derivative1_power2")
_MOTION = tuple(f"{axis}{form}" for axis in
                ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z") for form in _FULL)  # fmt: skip
_TISSUES = ("csf", "white_matter")
_TISSUES_FULL = tuple(f"{tissue}{form}" for tissue in _TISSUES for form in _FULL)
_NAMED: dict[Confounds, tuple[str, ...]] = {
    "simple": (*_MOTION, *_TISSUES),
    "scrubbing": (*_MOTION, *_TISSUES_FULL),
    "compcor": _MOTION,
    "ica_aroma": _TISSUES,
    "none": (),
}
# Of the entities of an image these are not in the names of its confounds.
_OF_THE_IMAGE = ("space-", "res-", "den-", "cohort-", "label-", "desc-")


@dataclass(frozen=True, eq=False)
class Cleaning:
    """What to remove from the time series of one scan.

    Parameters
    ----------
    names : of the regressors.
    regressors : shape (volumes, regressors), float64.
    kept : the volumes that stay, shape (kept,), in their order.
    not_steady, scrubbed : how many volumes are left out, and why.
    detrend : whether a linear trend is removed too.
    """

    names: tuple[str, ...]
    regressors: np.ndarray
    kept: np.ndarray
    not_steady: int
    scrubbed: int
    detrend: bool

    @property
    def volumes_left(self) -> int:
        """How many independent volumes the residuals are worth: each regressor costs one."""
        return len(self.kept) - len(self.names) - int(self.detrend)

    def describe(self) -> str:
        """`of 150 volumes 12 scrubbed and 2 before the steady state; 30 regressors`"""
        left_out = []
        if self.scrubbed:
            left_out.append(f"{self.scrubbed} scrubbed")
        if self.not_steady:
            left_out.append(f"{self.not_steady} before the steady state")
        return (
            f"of {len(self.regressors)} volumes {' and '.join(left_out) or 'none'} left out; "
            f"{len(self.names)} regressors"
        )

    def clean(self, series: np.ndarray) -> np.ndarray:
        """The residuals of time series (volumes, ROIs), shape (kept, ROIs), with mean 0.

        The regression runs over the kept volumes alone, all regressors and the trend at once, through
        nilearn. Nothing is scaled: correlations do not ask for it.
        """
        varying = np.ptp(self.regressors[self.kept], axis=0) > 0  # a constant removes nothing
        cleaned = _residuals(series, self.regressors[:, varying], self.kept, self.detrend)
        centred: np.ndarray = cleaned - cleaned.mean(axis=0)
        return centred


def _residuals(series: np.ndarray, regressors: np.ndarray, kept: np.ndarray, detrend: bool) -> np.ndarray:
    from nilearn.signal import clean

    confounds = regressors if regressors.shape[1] else None
    residuals: np.ndarray = clean(
        series, detrend=detrend, standardize=None, confounds=confounds, sample_mask=kept, filter=False
    )
    return residuals


def cleaning_of(bold: Path, strategy: Confounds, volumes: int, seconds: float | None) -> Cleaning:
    """What a strategy removes from the series of an image, from the table beside it.

    ============  =======================================================================================
    "simple"      24 motion parameters, white matter, CSF, and fMRIPrep's cosines (high pass)
    "scrubbing"   24 motion parameters, 8 of white matter and CSF, the cosines; and without the volumes
                  that have a framewise displacement above `FD_MM` or a standardised DVARS above
                  `STANDARDISED_DVARS`, and without what is left in pieces below `SHORTEST_SEGMENT` volumes
    "compcor"     24 motion parameters, all aCompCor components of the combined mask, the cosines
    "ica_aroma"   white matter, CSF and the cosines, of images that ICA-AROMA has cleaned already
    "none"        nothing, and no trend either
    ============  =======================================================================================

    Each but "none" removes a linear trend too. Volumes before the steady state are always left out, as
    far as the table tells. A derivative is `n/a` in the first volume: it takes the value of the second.

    Parameters
    ----------
    bold : the image; its confounds are in `*_desc-confounds_timeseries.tsv`, of fMRIPrep before 20.2 in
        `*_desc-confounds_regressors.tsv`. With "none" they may be missing.
    volumes, seconds : how many the image has, and between two of them (None: unknown).

    Raises
    ------
    ScanRefused : the table or a column of it is missing; it has more or fewer rows than the image has
        volumes, or no number where one is needed.
    """
    table = _table_of(bold, needed=strategy != "none")
    if table is None:
        return Cleaning((), np.zeros((volumes, 0)), np.arange(volumes), 0, 0, detrend=False)
    frame = _read(table)
    if len(frame) != volumes:
        raise ScanRefused(
            f"its confounds have {len(frame)} rows, the image {volumes} volumes",
            where=table,
            expected="a row for each volume",
        )
    steady = ~_flagged(frame, [name for name in _columns(frame) if name.startswith("non_steady_state")])
    moved = _moved(frame, table) if strategy == "scrubbing" else np.zeros(volumes, dtype=bool)
    kept = np.flatnonzero(steady & ~moved)
    names = _NAMED[strategy]
    if strategy == "compcor":
        names += _components(table)
    if strategy != "none":
        names += _cosines(frame, volumes, seconds, table)
    _check_columns(frame, names, table)
    return Cleaning(
        names,
        _regressors(frame, names, kept, table),
        kept,
        not_steady=int((~steady).sum()),
        scrubbed=int((moved & steady).sum()),
        detrend=strategy != "none",
    )


def confounds_files(bold: Path) -> list[Path]:
    """Where the confounds of an image may be: the newer name, and the one before fMRIPrep 20.2."""
    parts = bold.name.split("_")[:-1]
    start = "_".join(part for part in parts if not part.startswith(_OF_THE_IMAGE))
    return [bold.with_name(f"{start}_desc-confounds_{kind}.tsv") for kind in ("timeseries", "regressors")]


def _table_of(bold: Path, needed: bool) -> Path | None:
    names = confounds_files(bold)
    found = [path for path in names if path.is_file()]
    if len(found) > 1:
        raise ScanRefused(
            f"it has two tables of confounds, {found[0].name} and {found[1].name}",
            where=bold,
            hint="remove the one of another run of fMRIPrep",
        )
    if found or not needed:
        return found[0] if found else None
    if any(path.is_symlink() for path in names):
        raise missing_file(next(path for path in names if path.is_symlink()))
    raise ScanRefused(
        f"its confounds are missing: there is no {names[0].name}",
        where=bold,
        hint="copy it here, or leave the series uncleaned with --confounds none",
    )


def _read(table: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(table, sep="\t", na_values=["n/a"], encoding="utf-8", index_col=False)
    except (OSError, ValueError) as problem:  # what pandas raises on a damaged table is a ValueError
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ScanRefused(f"its confounds cannot be read ({reason})", where=table) from None


def _columns(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame.columns]


def _check_columns(frame: pd.DataFrame, names: tuple[str, ...], table: Path) -> None:
    if missing := [name for name in names if name not in frame]:
        older = any(name in frame for name in ("X", "RotX", "WhiteMatter"))
        raise ScanRefused(
            f"its confounds lack {listed(missing, 4)}",
            where=table,
            hint="this is of fMRIPrep before 1.2, which measured less: run a newer one"
            if older
            else "choose another strategy with --confounds",
        )


def _numbers(frame: pd.DataFrame, names: tuple[str, ...], table: Path) -> np.ndarray:
    """The columns as they stand, shape (volumes, names), float64; NaN where there is no number."""
    try:
        return frame[list(names)].to_numpy(dtype=np.float64, copy=True).reshape(len(frame), len(names))
    except (ValueError, TypeError):
        raise ScanRefused("its confounds hold text where numbers should be", where=table) from None


def _regressors(frame: pd.DataFrame, names: tuple[str, ...], kept: np.ndarray, table: Path) -> np.ndarray:
    """The columns with the first row of derivatives filled in; 0 where a volume is left out anyway."""
    values = _numbers(frame, names, table)
    if len(values) > 1:
        first = np.isnan(values[0])
        values[0, first] = values[1, first]
    unusable = ~np.isfinite(values[kept])
    if unusable.any():
        volume, column = np.argwhere(unusable)[0]
        raise ScanRefused(
            f"its confounds have no number for {names[column]} in volume {kept[volume] + 1}", where=table
        )
    values[~np.isfinite(values)] = 0.0
    return values


def _cosines(frame: pd.DataFrame, volumes: int, seconds: float | None, table: Path) -> tuple[str, ...]:
    names = tuple(name for name in _columns(frame) if re.fullmatch(r"cosine\d+", name))
    if not names and (seconds is None or volumes * seconds >= SLOWEST_PERIOD_S):
        lasts = "" if seconds is None else f" of a run of {volumes * seconds:.0f} s"
        raise ScanRefused(
            f"its confounds{lasts} lack cosine00 and so on, the high pass",
            where=table,
            expected=f"cosines, as fMRIPrep writes them for runs above {SLOWEST_PERIOD_S:.0f} s",
        )
    return names


def _components(table: Path) -> tuple[str, ...]:
    """aCompCor of the combined mask of white matter and CSF: only the JSON tells the masks apart."""
    sidecar = table.with_suffix(".json")
    try:
        said = json.loads(sidecar.read_text(encoding="utf-8"))
        names = tuple(
            name
            for name, meaning in said.items()
            if re.fullmatch(r"a_comp_cor_\d+", name)
            and meaning.get("Mask") == "combined"
            and meaning.get("Retained", True)
        )
    except FileNotFoundError:
        raise ScanRefused(f"there is no {sidecar.name}, which aCompCor needs", where=table) from None
    except (OSError, ValueError, AttributeError):
        raise ScanRefused("the JSON of its confounds cannot be read", where=sidecar) from None
    if not names:
        raise ScanRefused("its confounds have no aCompCor of the combined mask", where=sidecar)
    return names


def _moved(frame: pd.DataFrame, table: Path) -> np.ndarray:
    """Volumes to scrub, shape (volumes,): those of strong motion, and short pieces between them."""
    measures = {"framewise_displacement": FD_MM, "std_dvars": STANDARDISED_DVARS}
    _check_columns(frame, tuple(measures), table)
    values = _numbers(frame, tuple(measures), table)
    if not np.isfinite(values[1:]).all():
        raise ScanRefused("its confounds do not say how much it moved in every volume", where=table)
    moved: np.ndarray = np.any(values > list(measures.values()), axis=1)  # the first volume has no number
    if not moved.any():
        return moved
    edges = np.flatnonzero(np.diff(np.concatenate([[True], moved, [True]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        if stop - start < SHORTEST_SEGMENT:
            moved[start:stop] = True
    return moved


def _flagged(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    flagged: np.ndarray = (frame[names] != 0).any(axis=1).to_numpy(dtype=bool)
    return flagged
