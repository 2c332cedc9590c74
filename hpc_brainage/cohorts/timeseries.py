"""ROI time series of many scans, one file each, as functional connectivity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial as bind
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from hpc_brainage.cohorts import connectivity
from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.file_identity import refuse_repeated, scans_of
from hpc_brainage.cohorts.series_file import (
    is_named_as_series,
    looks_like_people,
    read_series,
    series_files,
    series_identities,
)
from hpc_brainage.errors import CohortError, ScanRefused, UsageError, nearest
from hpc_brainage.files import sha256_of, sha256_of_file
from hpc_brainage.modality import Modality, Role

ConnectivityKind = Literal["pearson", "partial", "tangent"]

MOST_DEAD_SHARE = 0.1


_LOOKED_AT = 10
"""Files of a folder that are looked at to tell whether it holds time series."""


def is_timeseries(path: Path) -> bool:
    """Whether a folder, a glob or a file holds ROI time series.

    Named as such (`.1D`, `_timeseries.tsv`), they are believed; a folder of other files is one of time
    series if its first two readable files are matrices of numbers with the same ROIs and enough volumes.
    A folder with a participants table is more than that: there the table is the source, and the series
    in it are added to it.
    """
    files = series_files(path)
    if not files or (path.is_dir() and any(path.glob("participants.*"))):
        return False
    if is_named_as_series(files[0]):
        return True
    if path.is_file() or len(files) < 2:
        return False
    readable = []
    for file in files[:_LOOKED_AT]:  # a damaged file does not make its folder another thing
        try:
            readable.append(read_series(file))
        except ScanRefused:
            continue
        if len(readable) == 2:
            break
    if len(readable) < 2:
        return False
    first, second = readable
    enough = min(len(first.values), len(second.values)) >= connectivity.FEWEST_VOLUMES
    return enough and first.labels == second.labels and not looks_like_people(first.labels)


def read_timeseries(
    path: Path | Sequence[Path],
    role: str = "fmri",
    name: str | None = None,
    kind: ConnectivityKind = "pearson",
    known_ids: Collection[str] | None = None,
) -> Cohort:
    """Read a folder of ROI time series, one file per scan, as one modality of edges.

    All files are looked through once, so that the account is complete; with "pearson" and "partial" a
    scan's edges are computed when it is loaded. Edges are named `{a}--{b}` by the labels of the ROIs in
    the order of the files (see `connectivity.edge_names`), with `partial:` or `tangent-<reference>:`
    before them for the other kinds, so that a model never meets another kind of edge under the same
    name.

    A scan is refused if its file is not usable (`series_file.read_series`), has fewer than
    `connectivity.FEWEST_VOLUMES` volumes, other ROIs than most files have, or fewer than two ROIs with
    a signal. This is enough for all kinds: the covariance behind "partial" and "tangent" is shrunk, so
    it can be inverted with fewer volumes than ROIs.

    Edges of a dead ROI (no signal in this scan) are NaN. "tangent" needs all ROIs in all scans: a ROI
    that is dead in more than a tenth of them is left out for everybody, then scans in which another one
    is dead are refused. Its reference is fitted on all usable files of this source, before any selection
    and across the folds of a later training, so that such a model has seen a little of the scans that
    it is validated on; and its edges only meet models of the same reference. A note warns of both.

    Parameters
    ----------
    path : a folder, a glob, or the files themselves.
    role, name : of the modality, "fmri" and "fc" if not given.
    kind : "pearson" (Fisher z), "partial" (partial correlation) or "tangent".
    known_ids : participants that are expected, to recognise them in file names.

    Raises
    ------
    CohortError : no file, two files of one scan, files that lie on their side, or no usable file.
    """
    if kind not in get_args(ConnectivityKind):
        raise UsageError(
            f"connectivity of kind {kind!r} is not known", hint=nearest(kind, get_args(ConnectivityKind))
        )
    files = series_files(path)
    where = path if isinstance(path, Path) else f"{len(files)} files"
    if not files:
        raise CohortError(
            "there are no ROI time series",
            where=where,
            expected="one .1D, .tsv, .csv, .txt or .npy file per scan (.gz too)",
        )
    source = path.name if isinstance(path, Path) else name or "time series"
    identities = series_identities(files, known_ids)
    refuse_repeated(files, identities, "folder/**/*_atlas-X_timeseries.tsv")
    survey = _Survey(files)
    if kind == "tangent":
        survey.keep_rois_alive_in_most()
    if not survey.usable:
        reason = next(iter(survey.refused.values()))
        raise CohortError(
            f"none of the {len(files)} files can be used",
            where=where,
            hint=f"the first was refused because: {reason}",
        )

    usable = survey.usable
    labels = tuple(survey.labels[roi] for roi in survey.rois)
    loaders: list[Callable[[], np.ndarray]]
    notes = survey.notes()
    prefix = {"pearson": "", "partial": "partial:"}.get(kind)
    if prefix is None:
        group = [read_series(files[place]).values[:, survey.rois] for place in usable]
        if len(group) < 2:
            raise CohortError("one scan is no group to take a tangent at", where=where)
        edges, reference = connectivity.tangent(group, labels)
        prefix = f"tangent-{reference}:"
        notes = [
            f"WARNING: the reference of the tangent space is fitted on all {len(group)} scans here, before "
            "--where and across the folds of a training (a small leak into its validation); a store of "
            "these edges only meets models of the same reference",
            *notes,
        ]
        loaders = [row.copy for row in edges]
    else:
        measure = connectivity.pearson if kind == "pearson" else connectivity.partial
        loaders = [bind(_load, files[place], survey.labels, measure) for place in usable]
    names = connectivity.edge_names(labels, prefix)
    modality = Modality(
        cast(Role, role), name or "fc", "features", (len(names),), names, ("",) * len(names)
    )
    present = np.ones(len(usable), dtype=bool)
    refusals = tuple(
        Refusal(*identities[place], source, reason) for place, reason in sorted(survey.refused.items())
    )
    account = Account(
        (JoinedSource(source, rows=len(files), matched=len(usable)),),
        refusals,
        tuple(f"{source}: {note}" for note in notes),
    )
    return Cohort(
        source,
        scans_of([identities[place] for place in usable]),
        {modality.key: ModalitySource(modality, present, lambda row: loaders[row]())},
        account,
        _recipe(files, kind),
    )


class _Survey:
    """One look through all files: which are usable, and which ROIs are dead in them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.refused: dict[int, str] = {}
        self._dropped: list[str] = []
        found: dict[int, tuple[tuple[str, ...], np.ndarray]] = {}
        sizes: list[tuple[int, int]] = []
        for place, path in enumerate(files):
            try:
                series = read_series(path)
            except ScanRefused as problem:
                self.refused[place] = problem.what
                continue
            sizes.append((len(series.values), len(series.labels)))
            found[place] = (series.labels, connectivity.dead_rois(series.values))
            if len(series.values) < connectivity.FEWEST_VOLUMES:
                self.refused[place] = (
                    f"{len(series.values)} volumes are too few: "
                    f"at least {connectivity.FEWEST_VOLUMES} are needed"
                )
        _refuse_transposed(sizes, files)
        common = Counter(labels for labels, _ in found.values()).most_common(1)
        self.labels: tuple[str, ...] = common[0][0] if common else ()
        self.dead: dict[int, np.ndarray] = {}
        for place, (labels, dead) in found.items():
            if place in self.refused:
                continue
            if labels != self.labels:
                self.refused[place] = _other_rois(labels, self.labels)
            elif (~dead).sum() < 2:
                self.refused[place] = f"{int(dead.sum())} of {len(dead)} ROIs have no signal"
            else:
                self.dead[place] = dead
        self.rois = list(range(len(self.labels)))

    @property
    def usable(self) -> list[int]:
        """Places of the usable files, in their order."""
        return sorted(self.dead)

    def keep_rois_alive_in_most(self) -> None:
        """Leave out ROIs that are dead in many scans, then scans in which another one is dead."""
        if not self.dead:
            return
        share = np.mean(list(self.dead.values()), axis=0)
        self.rois = np.flatnonzero(share <= MOST_DEAD_SHARE).tolist()
        self._dropped = [self.labels[roi] for roi in np.flatnonzero(share > MOST_DEAD_SHARE)]
        for place, dead in list(self.dead.items()):
            if dead[self.rois].any():
                without = ", ".join(self.labels[roi] for roi in self.rois if dead[roi])
                self.refused[place] = f"ROI {without} has no signal, which the tangent space needs"
                del self.dead[place]

    def notes(self) -> list[str]:
        notes = []
        dead = np.array([self.dead[place] for place in self.usable])[:, self.rois]
        labels = np.array(self.labels, dtype=object)[self.rois]
        if self._dropped:
            notes.append(
                f"ROIs without signal in more than {MOST_DEAD_SHARE:.0%} of the scans are left out: "
                + ", ".join(self._dropped)
            )
        if dead.any():
            times = dead.sum(axis=0)
            worst = np.argsort(-times, kind="stable")[:3]
            shown = ", ".join(f"{labels[roi]} in {times[roi]}" for roi in worst if times[roi])
            notes.append(
                f"in {int(dead.any(axis=1).sum())} of {len(dead)} scans a ROI has no signal and its "
                f"edges are missing (ROIs concerned: {int((times > 0).sum())}; most often {shown})"
            )
        if len(dead) and (everywhere := dead.all(axis=0)).any():
            notes.append(f"no scan has a signal in ROI {', '.join(labels[everywhere])}")
        return notes


def _load(path: Path, labels: tuple[str, ...], measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    series = read_series(path)
    if series.labels != labels or len(series.values) < connectivity.FEWEST_VOLUMES:
        raise ScanRefused("the file has changed since it was looked through", where=path)
    return measure(series.values)


def _refuse_transposed(sizes: Sequence[tuple[int, int]], files: Sequence[Path]) -> None:
    """All files of one length, and no width that most of them share: rows must be the ROIs."""
    rows, columns = (Counter(size[axis] for size in sizes) for axis in (0, 1))
    if len(rows) == 1 and len(sizes) > 2 and 2 * max(columns.values()) <= len(sizes):
        raise CohortError(
            f"the files have {min(columns)} to {max(columns)} columns but all have {min(rows)} rows",
            where=files[0].parent,
            expected="a row for each volume and a column for each ROI",
            hint="they seem to lie on their side: swap rows and columns",
        )


def _other_rois(labels: tuple[str, ...], usual: tuple[str, ...]) -> str:
    if len(labels) != len(usual):
        return f"it has {len(labels)} ROIs, most files have {len(usual)}"
    place = next(i for i, pair in enumerate(zip(labels, usual, strict=True)) if pair[0] != pair[1])
    return f"its ROIs are others: column {place + 1} is {labels[place]}, in most files {usual[place]}"


def _recipe(files: Sequence[Path], kind: str) -> dict[str, Any]:
    contents = [[path.name, sha256_of_file(path)] for path in files]
    return {
        "reader": "timeseries",
        "connectivity": kind,
        "scan_files": len(files),
        "sha256": sha256_of(contents),
    }
