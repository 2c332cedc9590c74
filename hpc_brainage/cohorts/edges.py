"""ROI time series of many scans become one modality of edges, whatever the series come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial as bind
from typing import Any, cast

import numpy as np

from hpc_brainage.cohorts import connectivity
from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.file_identity import Identity, scans_of
from hpc_brainage.cohorts.reading import Connectivity
from hpc_brainage.cohorts.series_file import Series
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.modality import Modality, Role

MOST_DEAD_SHARE = 0.1


@dataclass
class Survey:
    """Which scans have usable series; scans are known by their place in the list of readers.

    Parameters
    ----------
    labels : of the ROIs.
    usable : places, in their order.
    refused : by place, why.
    dead : by place, which ROIs have no signal, shape (ROIs,), of the scans that were looked at.
    sizes : volumes and ROIs of the series that could be read.
    series : by place, the series (volumes, ROIs) that were kept.
    rois : which of the ROIs become edges.
    """

    labels: tuple[str, ...]
    usable: list[int]
    refused: dict[int, str]
    dead: dict[int, np.ndarray] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    series: dict[int, np.ndarray] = field(default_factory=dict)
    rois: list[int] = field(default_factory=list)
    _dropped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rois = list(range(len(self.labels)))

    @classmethod
    def look_through(cls, readers: Sequence[Callable[[], Series]], keep: bool) -> Survey:
        """Read every scan once, and refuse those that the edges cannot be computed of.

        `keep` holds on to the series of the others: "tangent" needs all of them at once.
        """
        refused: dict[int, str] = {}
        sizes: list[tuple[int, int]] = []
        found: dict[int, tuple[tuple[str, ...], np.ndarray]] = {}
        kept: dict[int, np.ndarray] = {}
        for place, read in enumerate(readers):
            try:
                series = read()
            except ScanRefused as problem:
                refused[place] = problem.what
                continue
            sizes.append((len(series.values), len(series.labels)))
            found[place] = (series.labels, connectivity.dead_rois(series.values))
            if len(series.values) < connectivity.FEWEST_VOLUMES:
                refused[place] = (
                    f"{len(series.values)} volumes are too few: "
                    f"at least {connectivity.FEWEST_VOLUMES} are needed"
                )
            elif keep:
                kept[place] = series.values
        common = Counter(labels for labels, _ in found.values()).most_common(1)
        usual = common[0][0] if common else ()
        dead: dict[int, np.ndarray] = {}
        for place, (labels, without) in found.items():
            if place in refused:
                continue
            if labels != usual:
                refused[place] = _other_rois(labels, usual)
            elif (~without).sum() < 2:
                refused[place] = f"{int(without.sum())} of {len(without)} ROIs have no signal"
            else:
                dead[place] = without
        return cls(usual, sorted(dead), refused, dead, sizes, kept)

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
        self.usable = sorted(self.dead)

    def notes(self) -> list[str]:
        """What is to be said about ROIs without a signal, as far as it is known."""
        notes = []
        if self._dropped:
            notes.append(
                f"ROIs without signal in more than {MOST_DEAD_SHARE:.0%} of the scans are left out: "
                + ", ".join(self._dropped)
            )
        if not self.dead:
            return notes
        dead = np.array([self.dead[place] for place in self.usable])[:, self.rois]
        labels = np.array(self.labels, dtype=object)[self.rois]
        if dead.any():
            times = dead.sum(axis=0)
            worst = np.argsort(-times, kind="stable")[:3]
            shown = ", ".join(f"{labels[roi]} in {times[roi]}" for roi in worst if times[roi])
            notes.append(
                f"in {int(dead.any(axis=1).sum())} of {len(dead)} scans a ROI has no signal and its "
                f"edges are missing (ROIs concerned: {int((times > 0).sum())}; most often {shown})"
            )
        if (everywhere := dead.all(axis=0)).any():
            notes.append(f"no scan has a signal in ROI {', '.join(labels[everywhere])}")
        return notes


@dataclass(frozen=True)
class SeriesOfScans:
    """The series of scans, and how to load them again.

    Parameters
    ----------
    source : name of where they come from, for the account.
    where : the same, for messages.
    identities, loaders : of all scans; a loader gives (volumes, ROIs), float64, with the labels of the
        survey, or raises `ScanRefused`.
    survey : which of them are usable.
    """

    source: str
    where: object
    identities: Sequence[Identity]
    survey: Survey
    loaders: Sequence[Callable[[], np.ndarray]]

    def as_edges(
        self,
        role: str,
        name: str,
        kind: Connectivity,
        recipe: dict[str, Any],
        *,
        fingerprint: str = "",
        notes: Sequence[str] = (),
    ) -> Cohort:
        """The scans as a cohort with one modality of edges, named by the ROIs (`connectivity.edge_names`).

        "pearson" and "partial" are computed when a scan is loaded; "tangent" here, of series that the
        survey has kept.

        Raises
        ------
        CohortError : no scan is usable, or "tangent" and there is only one.
        """
        survey = self.survey
        if kind == "tangent":
            survey.keep_rois_alive_in_most()
        if not survey.usable:
            raise CohortError(
                f"none of the {len(self.identities)} files can be used",
                where=self.where,
                hint=f"the first was refused because: {next(iter(survey.refused.values()))}",
            )
        if kind == "partial":
            connectivity.load_engine()
        labels = tuple(survey.labels[roi] for roi in survey.rois)
        said = [*notes, *survey.notes()]
        if kind == "tangent":
            group = [survey.series[place][:, survey.rois] for place in survey.usable]
            survey.series.clear()
            if len(group) < 2:
                raise CohortError("one scan is no group to take a tangent at", where=self.where)
            edges, reference = connectivity.tangent(group, labels)
            prefix = f"tangent-{reference}:"
            said.insert(
                0,
                f"WARNING: the reference of the tangent space is fitted on all {len(group)} scans here, "
                "before --where and across the folds of a training (a small leak into its validation); a "
                "store of these edges only meets models of the same reference",
            )
            load: list[Callable[[], np.ndarray]] = [row.copy for row in edges]
        else:
            prefix = {"pearson": "", "partial": "partial:"}[kind]
            measure = connectivity.pearson if kind == "pearson" else connectivity.partial
            load = [bind(_edges, self.loaders[place], measure) for place in survey.usable]
        names = connectivity.edge_names(labels, prefix)
        modality = Modality(cast(Role, role), name, "features", (len(names),), names, ("",) * len(names))
        present = np.ones(len(survey.usable), dtype=bool)
        refusals = tuple(
            Refusal(*self.identities[place], self.source, reason)
            for place, reason in sorted(survey.refused.items())
        )
        account = Account(
            (JoinedSource(self.source, rows=len(self.identities), matched=len(survey.usable)),),
            refusals,
            tuple(f"{self.source}: {note}" for note in said),
        )
        modality_source = ModalitySource(modality, present, lambda row: load[row](), fingerprint)
        return Cohort(
            self.source,
            scans_of([self.identities[place] for place in survey.usable]),
            {modality.key: modality_source},
            account,
            recipe,
        )


def _edges(load: Callable[[], np.ndarray], measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return measure(load())


def _other_rois(labels: tuple[str, ...], usual: tuple[str, ...]) -> str:
    if len(labels) != len(usual):
        return f"it has {len(labels)} ROIs, most files have {len(usual)}"
    place = next(i for i, pair in enumerate(zip(labels, usual, strict=True)) if pair[0] != pair[1])
    return f"its ROIs are others: column {place + 1} is {labels[place]}, in most files {usual[place]}"
