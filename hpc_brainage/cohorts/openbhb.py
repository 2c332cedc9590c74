"""OpenBHB, as it was downloaded: 3,984 public T1-weighted scans of healthy people, six arrays each.

Source: Dufumier et al. 2022, NeuroImage 263:119637. OpenBHB holds no functional MRI; a functional table
of the same people is joined to it by participant.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource
from hpc_brainage.cohorts.openbhb_layout import (
    PARTICIPANTS,
    Found,
    describe_array,
    find_files,
    has_openbhb_files,
    resources_file,
)
from hpc_brainage.cohorts.openbhb_names import ARRAYS
from hpc_brainage.cohorts.openbhb_placing import place_array
from hpc_brainage.cohorts.openbhb_roi import RoiTable, read_roi_table
from hpc_brainage.cohorts.people import ColumnMap, free_name, identities, read_people
from hpc_brainage.cohorts.tables import read_table
from hpc_brainage.errors import CohortError
from hpc_brainage.provenance import input_file
from hpc_brainage.scans import scan_name

QUALITY = "qc.tsv"
_SITE_LABELS = ("train_site_labels_v1.tsv", "test_site_labels_v1.tsv")  # of the IEEE release


def is_openbhb(folder: Path) -> bool:
    """Whether a folder holds an OpenBHB download: participants.tsv, and files of OpenBHB's names."""
    return (folder / PARTICIPANTS).is_file() and has_openbhb_files(folder)


def read_openbhb(folder: Path, name: str | None = None) -> Cohort:
    """Read an OpenBHB download in either public layout.

    Every person of participants.tsv is a scan of the cohort, measured or not. The `site` is the column
    `siteXacq` where the release has it (centre and acquisition setting together), since scanner effects
    belong to the setting, and since the official internal and external tests are defined by it; the
    columns themselves stay as `siteXacq` and `original_site`. The official `split` is kept; where the
    release leaves it empty (IEEE), it means "train". OpenBHB has one visit per person, so `session_id`
    is "" unless the files name several. Columns of qc.tsv become further columns.

    Modalities, as far as anybody has them: `smri/vbm_roi`, `smri/desikan_roi`, `smri/destrieux_roi`
    (features), `smri/cat12vbm`, `smri/quasiraw` (volumes) and `smri/xhemi` (surface).

    Raises
    ------
    CohortError : no participants.tsv, no file of any array, or a table or resources.json that cannot
        be what it claims to be. What is wrong with one scan only is in the account, or is raised as
        `ScanRefused` when that scan is loaded.
    """
    if not (folder / PARTICIPANTS).is_file():
        raise CohortError(
            "the folder has no participants.tsv",
            where=folder,
            expected="OpenBHB as downloaded from HuggingFace or IEEE DataPort",
            hint="download participants.tsv into this folder",
        )
    found = find_files(folder)
    if not found.scans and not found.tables:
        raise CohortError(
            "the folder has no preprocessed OpenBHB file",
            where=folder,
            expected="files such as sub-<id>_preproc-quasiraw_T1w.npy or desikan_roi_features.csv",
            hint="download at least one of OpenBHB's arrays into this folder",
        )
    wanted = [array for array in ARRAYS if array.name in found.scans or array.name in found.tables]
    modalities = {array.name: describe_array(folder, array) for array in wanted}
    tables = {
        array.name: [
            (path, read_roi_table(path, modalities[array.name].features))
            for path in found.tables.get(array.name, ())
        ]
        for array in wanted
    }
    scans, account, known = _people(folder, _sessions(found, tables))
    rows = {
        scan: row for row, scan in enumerate(zip(scans["participant_id"], scans["session_id"], strict=True))
    }
    sources = {}
    for array in wanted:
        source, sources_account = place_array(
            array,
            modalities[array.name],
            tables[array.name],
            found.scans.get(array.name, {}),
            rows=rows,
            known=known,
        )
        sources[source.modality.key] = source
        account += sources_account
    if found.unknown:
        shown = ", ".join(found.unknown[:3]) + (", ..." if len(found.unknown) > 3 else "")
        note = f"{len(found.unknown)} files have names that OpenBHB does not use: {shown}"
        account += Account(notes=(note,))
    return Cohort(name or folder.resolve().name, scans, sources, account, _recipe(folder, found))


def _people(folder: Path, sessions: dict[str, list[str]]) -> tuple[pd.DataFrame, Account, set[str]]:
    """Scans and their account, and every participant that participants.tsv names, refused or not."""
    frame = read_table(folder / PARTICIPANTS, text=("participant_id",))
    notes: list[str] = []
    if "siteXacq" not in frame.columns:
        _add_site_labels(folder, frame)
    columns = ColumnMap(
        id="participant_id",
        age="age",
        sex="sex",
        site="siteXacq" if "siteXacq" in frame.columns else None,
        split="split" if "split" in frame.columns else None,
        diagnosis="diagnosis" if "diagnosis" in frame.columns else None,
    )
    people = read_people(frame, columns, source=PARTICIPANTS)
    scans = people.scans
    if "split" in frame.columns and (empty := scans["split"] == "").any():
        scans.loc[empty, "split"] = "train"
        notes.append(f"{PARTICIPANTS}: {int(empty.sum())} scans have no split: OpenBHB means train")
    scans = _add_quality(folder, scans, notes)
    times = [sessions.get(participant, [""]) for participant in scans["participant_id"]]
    scans = scans.iloc[np.repeat(np.arange(len(scans)), [len(each) for each in times])]
    scans = scans.assign(session_id=[session for each in times for session in each])
    repeated = sum(len(each) > 1 for each in times)
    if repeated:
        notes.append(f"{repeated} people have several sessions, for which there is only one age")
    table = JoinedSource(PARTICIPANTS, rows=len(frame), matched=len(people.scans))
    account = Account(sources=(table,)) + people.account + Account(notes=tuple(notes))
    return scans.reset_index(drop=True), account, set(identities(frame["participant_id"]))


def _add_site_labels(folder: Path, frame: pd.DataFrame) -> None:
    """Put siteXacq into an IEEE release's participants, which has it in files of its own."""
    labels = [
        read_table(folder / name, text=("participant_id", "siteXacq"))
        for name in _SITE_LABELS
        if (folder / name).is_file()
    ]
    if labels:
        table = pd.concat(labels).dropna(subset=["participant_id"])
        table = table.drop_duplicates().set_index(identities(table["participant_id"]))
        if table.index.has_duplicates:
            twice = table.index[table.index.duplicated()][0]
            raise CohortError("a participant has two values of siteXacq", where=scan_name(twice))
        frame["siteXacq"] = identities(frame["participant_id"]).map(table["siteXacq"])


def _add_quality(folder: Path, scans: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    if not (folder / QUALITY).is_file():
        return scans
    table = read_table(folder / QUALITY, text=("participant_id",))
    if "participant_id" not in table.columns:
        raise CohortError("the table has no column participant_id", where=folder / QUALITY)
    table.index = pd.Index(identities(table["participant_id"]))
    repeated = table.index[table.index.duplicated()].unique()
    if len(repeated):
        notes.append(f"{QUALITY}: {len(repeated)} people stand there twice: their quality is unknown")
    table = table.drop(columns="participant_id").drop(index=repeated)
    taken = [str(name) for name in (*scans.columns, *table.columns)]
    clashing = [name for name in table.columns if name in scans.columns]
    table = table.rename(columns={name: free_name(f"qc_{name}", taken) for name in clashing})
    strangers = len(table.index.difference(pd.Index(scans["participant_id"])))
    if strangers:
        notes.append(f"{QUALITY}: {strangers} people are not among the scans")
    quality = table.reindex(scans["participant_id"]).reset_index(drop=True)
    return pd.concat([scans, quality], axis=1)


def _sessions(found: Found, tables: dict[str, list[tuple[Path, RoiTable]]]) -> dict[str, list[str]]:
    """The sessions of each participant; "" for everyone where the whole release has only one."""
    named: dict[str, set[str]] = defaultdict(set)
    for files in found.scans.values():
        for participant, session in files:
            named[participant].add(session)
    for parts in tables.values():
        for _, table in parts:
            for participant, session in zip(table.participants, table.sessions, strict=True):
                named[participant].add(session)
    several = len({session for sessions in named.values() for session in sessions} - {""}) > 1
    if not several:
        return {}
    return {who: sorted(sessions) for who, sessions in named.items()}


def _recipe(folder: Path, found: Found) -> dict[str, Any]:
    tables = [folder / PARTICIPANTS, folder / QUALITY, *(folder / name for name in _SITE_LABELS)]
    if resources := resources_file(folder):
        tables.append(resources)
    tables += [path for paths in found.tables.values() for path in paths]
    return {
        "reader": "openbhb",
        "files": [input_file(path) for path in tables if path.is_file()],
        "scan_files": {name: len(files) for name, files in found.scans.items()},
    }
