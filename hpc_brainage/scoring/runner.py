"""Scoring a whole store with Dask: each task is some parts of the store, done on one worker.

A worker loads the bundle once. A task reads whole chunks, scores them and writes its rows to disk itself;
only a small record goes back, so a lost worker costs one task, and a run that is started again goes on
with the parts that are not there yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.model.bundle import read_info
from hpc_brainage.provenance import software
from hpc_brainage.scans import IDENTITY, scan_names, select_scans
from hpc_brainage.scoring.about import about_model, calibration_notes, describe_folder
from hpc_brainage.scoring.alignment import RoleMatch, match_roles
from hpc_brainage.scoring.bias import expected_mean_gap
from hpc_brainage.scoring.crew import Crew, hired
from hpc_brainage.scoring.depth import judge_table
from hpc_brainage.scoring.dispatch import carry_out
from hpc_brainage.scoring.earlier_table import check_place
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.further import Further
from hpc_brainage.scoring.part_work import PartWork, belonging
from hpc_brainage.scoring.parts import PartFolder, PartRecord
from hpc_brainage.scoring.table import summary, write_table
from hpc_brainage.scoring.whole_table import WholeTable
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import cut

Progress = Callable[[int, int, str], None]
_LONGEST_PART = 1024
"""Scans of a part, unless a chunk is longer: of thousands of features, a fraction of a second of work."""
_AS_USUAL, _NOTHING_FURTHER = WholeTable(), Further()


@dataclass(frozen=True)
class ScoringReport:
    """What a scoring run made.

    Attributes
    ----------
    kept : scans that an interrupted run had scored before.
    seconds : that scoring the others took, from when the first worker had loaded the model.
    """

    paths: dict[str, Path]
    table: pd.DataFrame
    about: dict[str, Any]
    notes: tuple[str, ...]
    kept: int = 0
    seconds: float = 0.0


def score_store(
    store_path: Path | str,
    model_path: Path,
    out: Path,
    *,
    where: str | None = None,
    whole: WholeTable = _AS_USUAL,
    further: Further = _NOTHING_FURTHER,
    fleet: Fleet | None = None,
    resume: bool = True,
    accept_implausible: bool = False,
    progress: Progress | None = None,
    watched_at: Callable[[str], None] | None = None,
) -> ScoringReport:
    """Score the scans of a store and write `OUT.tsv`, `OUT.parquet` and `OUT.json`.

    Parameters
    ----------
    where : a selection of the scans (see `select_scans`).
    whole : how gaps are corrected and sites calibrated, once all scans are scored.
    further : what else is written.
    fleet : who does the work; by default processes of this machine.
    resume : whether parts that an interrupted run of the same kind left are kept; otherwise a finished
        table of another model, store or selection is replaced, too.
    accept_implausible : write a table that makes no sense as a whole, too.
    progress : told how many scans of how many are done, and what there is to remark.
    watched_at : told the link of Dask's dashboard, if there is one.

    Raises
    ------
    StoreError, ModelError : the store or the bundle cannot be used, or they do not fit each other.
    ScoringError : parts failed even when they were tried again; or parts, or the table, of another run are
        in the way.
    UsageError, EnvironmentLacks : there are no such workers.
    """
    store, info = Store.open(store_path), read_info(model_path)
    matches = match_roles(store, info)
    notes = _meeting_notes(matches) + calibration_notes(info)
    chosen = select_scans(store.scans, where)
    belongs_to = belonging(store, model_path, where, {})
    scans = store.scans[chosen]
    whole.check(scans, model_sha256=belongs_to["model"], store_sha256=belongs_to["store"])
    further.check(info, scans)
    folder = PartFolder(out.with_name(f"{out.name}.parts"), belongs_to)
    work = PartWork(
        store.place.absolute(), str(model_path.absolute()), str(folder.folder.absolute()),
        tuple(belongs_to.items()), where,
    )  # fmt: skip
    source = {
        "model": about_model(info, belongs_to["model"]),
        "store": {"name": store.name, "sha256": store.content_sha256},
        "where": where,
    }
    if not (resume and folder.begun):  # who goes on was asked at the beginning
        check_place(out, source, replace=not resume)
    with folder.held(resume=resume):
        parts = _parts(store, matches)
        kept = folder.done(parts)
        open_parts = [
            part for part in parts if chosen[part.start : part.stop].any() and not _covers(kept, part)
        ]
        account = _Account(int(chosen.sum()), kept, progress)
        made: list[PartRecord] = []
        seconds = 0.0
        if open_parts:
            with hired(fleet or Fleet(), len(open_parts), folder.logs) as crew:
                if watched_at is not None and crew.dashboard:
                    watched_at(crew.dashboard)
                account.crew = crew
                made = carry_out(crew, work, open_parts, account.tell)
                account.crew = None
                seconds = time.monotonic() - account.began
        records = sorted([*kept, *made], key=lambda record: record.first)
        table = pd.concat([folder.read(record) for record in records], ignore_index=True)
        _check_complete(table, scans)
        notes += judge_table(table, info, accept_implausible)
        finished = whole.finish(table, scans, info)
        table, notes = finished.table, (*notes, *finished.notes)
        scored = np.flatnonzero(chosen)[(table["status"] == "scored").to_numpy()]
        files = further.write(store, model_path, scored, out)
        about = {
            **source,
            "notes": list(notes),
            "software": software("torch", "dask", "zarr"),
            "summary": summary(table) | {"training_mean_gap": expected_mean_gap(table, info.bias)},
            "files": {kind: path.name for kind, path in files.items()},
            **finished.about,
        }
        paths = write_table(table, out, about) | files
        describe_folder(out.parent, store.name)
        folder.remove()
    return ScoringReport(paths, table, about, notes, sum(record.scans for record in kept), seconds)


class _Account:
    """How many scans are done, and what there is to say of them meanwhile."""

    def __init__(self, total: int, kept: list[PartRecord], progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done = sum(record.scans for record in kept)
        self._failed = sum(record.failed for record in kept)
        self.crew: Crew | None = None
        self.began = math.inf
        self.tell(None)

    def tell(self, record: PartRecord | None) -> None:
        if record is not None:
            self.began = min(self.began, time.monotonic() - record.seconds)
            self._done += record.scans
            self._failed += record.failed
        if self._progress is None:
            return
        remarks = [f"{self._failed} failed"] if self._failed else []
        if self.crew is not None:
            present = self.crew.present
            remarks += [f"{present} of {self.crew.wanted} workers"] if present < self.crew.wanted else []
        self._progress(self._done, self._total, ", ".join(remarks))


def _covers(records: list[PartRecord], part: range) -> bool:
    return any(record.first <= part.start and part.stop <= record.stop for record in records)


def _parts(store: Store, matches: Mapping[str, RoleMatch]) -> list[range]:
    """The store's rows, cut so that no two pieces share a chunk of anything that the model takes."""
    tables = (match.table.modalities for match in matches.values() if match.table is not None)
    taken = {modality.key for table in tables for modality in table}
    taken |= {match.volume for match in matches.values() if match.volume is not None}
    layouts = [store.layout(key) for key in taken]
    shard = max(layout.shard_scans for layout in layouts)
    return cut(store.n_scans, max(min(shard, _LONGEST_PART), *(layout.chunk_scans for layout in layouts)))


def _meeting_notes(matches: Mapping[str, RoleMatch]) -> tuple[str, ...]:
    """How the store's features meet the model's, in words."""
    notes = []
    for role, match in matches.items():
        if not match.present.any():
            notes.append(f"the store has no {role}: every scan is scored without it")
            continue
        if match.missing:
            notes.append(
                f"{len(match.missing)} of the model's {len(match.columns)} {role} features are not in the"
                f" store and take the training median: {', '.join(match.missing[:5])}"
                + (", ..." if len(match.missing) > 5 else "")
            )
        if match.ignored:
            notes.append(f"{match.ignored} {role} features of the store are not used by the model")
    return tuple(notes)


def _check_complete(table: pd.DataFrame, scans: pd.DataFrame) -> None:
    """Every selected scan once, in the store's order."""
    if scan_names(table) != scan_names(scans):
        raise ScoringError(
            f"the table has {len(table)} rows for {len(scans)} scans",
            where=", ".join(IDENTITY),
            hint="this is an error of hpc-brainage; please report it",
        )
