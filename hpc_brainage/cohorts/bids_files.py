"""The files of a BIDS derivatives tree that are measurements, and which of them are meant.

A tree usually holds several images of one scan: in several spaces and resolutions, as intensities and
as tissue maps. Which one is meant is never guessed: the entities of their names choose, and if several
are left for one scan, the error says between what.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_brainage.cohorts.file_identity import Identity, bids_entities
from hpc_brainage.cohorts.volumes import is_volume_name, volume_stem
from hpc_brainage.errors import CohortError, UsageError
from hpc_brainage.scans import scan_name

Entities = Mapping[str, tuple[str, ...]]

VOLUME_SUFFIXES = ("T1w", "probseg")
EDGE_SUFFIXES = ("timeseries", "relmat")
# fMRIPrep's own, and what ICA-AROMA has cleaned already
BOLD_DESCS = ("preproc", "smoothAROMAnonaggr")
PERSONAL_SPACES = ("", "T1w", "T2w", "anat", "boldref", "func", "orig")

# What a number means depends on these, so all scans of a modality have the same.
_MEANING = ("suffix", "space", "res", "den", "desc", "label", "atlas", "seg", "stat", "hemi", "task")
_NOT_SCANS = {"figures", "log", "logs", "reports", "sourcedata", "xfm"}


@dataclass(frozen=True)
class BidsFile:
    """A file and what its name says, the suffix (`T1w`) among it as the entity `suffix`."""

    path: Path
    entities: dict[str, str]

    def __getitem__(self, entity: str) -> str:
        """The value of an entity, "" where the name does not have it."""
        return self.entities.get(entity, "")

    @property
    def identity(self) -> Identity:
        return self["sub"], self["ses"], self["run"]


@dataclass(frozen=True)
class Tree:
    """Candidates of a tree, sorted by path.

    Parameters
    ----------
    volumes : preprocessed T1w images and grey matter maps.
    edges : ROI time series and relational matrices.
    bold : BOLD series, of whatever space.
    misplaced : files that lie in the folder of somebody else.
    """

    volumes: list[BidsFile] = field(default_factory=list)
    edges: list[BidsFile] = field(default_factory=list)
    bold: list[BidsFile] = field(default_factory=list)
    misplaced: list[BidsFile] = field(default_factory=list)


@dataclass(frozen=True)
class Chosen:
    """What is left of one kind of candidates, the entities that were used for it, and notes."""

    files: list[BidsFile]
    used: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_entities(text: str | None) -> Entities:
    """Read `space=MNI152NLin2009cAsym,desc=preproc`.

    An entity that stands there twice may have either value; `run=` means files without a run.

    Raises
    ------
    UsageError : it is not understood.
    """
    wanted: dict[str, tuple[str, ...]] = {}
    for pair in (text or "").split(",") if text is not None else ():
        entity, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not entity.isalnum():
            raise UsageError(
                "the entities are not understood",
                where=f"--entities {text}",
                expected="entity=value, as in space=MNI152NLin2009cAsym,desc=preproc",
            )
        value = value.removeprefix(f"{entity}-")
        wanted[entity] = (*wanted.get(entity, ()), value)
    return wanted


def find_candidates(folder: Path) -> Tree:
    """Look through the folders `sub-*` of a derivatives tree."""
    tree = Tree()
    for subject in sorted(folder.glob("sub-*")):
        if not subject.is_dir():
            continue
        for parent, folders, names in os.walk(subject):
            folders[:] = sorted(name for name in folders if name not in _NOT_SCANS and name[0] != ".")
            for name in sorted(names):
                kind = _kind(name, tree)
                if kind is None:
                    continue
                file = BidsFile(Path(parent, name), _entities(name))
                (kind if f"sub-{file['sub']}" == subject.name else tree.misplaced).append(file)
    return tree


def choose(files: Sequence[BidsFile], wanted: Entities, what: str, folder: Path) -> Chosen:
    """Keep the candidates of one kind that have the wanted entities.

    An entity that no file of this kind has does not count for it, so that `atlas=Gordon` chooses among
    matrices and leaves the images alone. Where some images are in a named space, those without one are
    in the space of the person, in which no two people share a grid; they are left aside unless `space`
    is chosen. Matrices of scans that have time series too are left aside unless `suffix` is chosen.

    Raises
    ------
    CohortError : files have the entity, and none has the wanted value; the values are listed.
    """
    used = []
    notes = []
    chosen = list(files)
    for entity, values in wanted.items():
        known = sorted({file[entity] for file in files if file[entity]})
        if not known:
            continue
        used.append(entity)
        if entity == "suffix" and not set(values) & set(known):
            return Chosen([], (entity,))
        chosen = [file for file in chosen if file[entity] in values]
        if not chosen:
            raise CohortError(
                f"no {what} of this tree fits {entity}={','.join(values)}",
                where=folder,
                expected=f"{entity}={' or '.join(known)}",
                hint="correct --entities; an entity may stand there twice to allow two values",
            )
    if "space" not in wanted and any(file["space"] for file in chosen):
        placed = [file for file in chosen if file["space"] or file["suffix"] not in VOLUME_SUFFIXES]
        if native := len(chosen) - len(placed):
            notes.append(f"{folder.name}: {native} images in people's own space are left aside")
        chosen = placed
    if "suffix" not in wanted and any(file["suffix"] == "timeseries" for file in chosen):
        series = [file for file in chosen if file["suffix"] != "relmat"]
        if matrices := len(chosen) - len(series):
            notes.append(
                f"{folder.name}: connectivity is computed from time series; {matrices} matrices are left "
                "aside (--entities suffix=relmat takes them)"
            )
        chosen = series
    return Chosen(chosen, tuple(used), tuple(notes))


def refuse_ambiguous(files: Iterable[BidsFile], what: str, visit: Sequence[str], one_run: bool) -> None:
    """Raise `CohortError`, saying between what to choose, if a scan has several files of one kind.

    Parameters
    ----------
    visit : the entities that tell visits apart: ("sub", "ses"), or ("sub",).
    one_run : whether there may be one run for each visit only; else runs are scans of their own.
    """
    visits: dict[tuple[str, ...], list[BidsFile]] = defaultdict(list)
    for file in files:
        visits[tuple(file[entity] for entity in visit)].append(file)
    first: list[BidsFile] = []
    differing: dict[str, set[str]] = defaultdict(set)
    for group in visits.values():
        runs = {file["run"] for file in group}
        for run in runs:
            # a file without a run, beside those of single runs, is made of all of them
            same = [file for file in group if one_run or "" in runs or file["run"] == run]
            if len(same) < 2:
                continue
            first = first or same
            for entity in {entity for file in same for entity in file.entities}:
                values = {file[entity] for file in same}
                if len(values) > 1:
                    differing[entity] |= values
    if not first:
        return
    if not differing:
        raise CohortError("two files are the same scan", where=f"{first[0].path} and {first[1].path}")
    shown = [
        f"{entity} ({', '.join(sorted(value or 'none' for value in values))})"
        for entity, values in sorted(differing.items())
    ]
    example = ",".join(f"{entity}={first[0][entity]}" for entity in sorted(differing))
    raise CohortError(
        f"{len(first)} files could be the {what} of {scan_name(*first[0].identity[: len(visit)])}",
        where=", ".join(file.path.name for file in first[:3]) + (", ..." if len(first) > 3 else ""),
        expected=f"one for each scan; they differ in {', '.join(shown)}",
        hint=f"say which is meant, as in --entities {example}",
    )


def refuse_mixture(files: Sequence[BidsFile], wanted: Entities, what: str) -> None:
    """Raise `CohortError` if the files of different scans differ in an entity that nobody chose."""
    for entity in _MEANING:
        first = {file[entity]: file for file in reversed(files)}
        if len(first) > 1 and (entity not in wanted or entity == "suffix"):
            shown = " and ".join(file.path.name for file in list(first.values())[:2])
            raise CohortError(
                f"the {what}s differ in {entity}: {', '.join(sorted(value or 'none' for value in first))}",
                where=shown,
                expected="the same for all scans",
                hint=f"say which is meant, as in --entities {entity}={max(first)}",
            )


def _kind(name: str, tree: Tree) -> list[BidsFile] | None:
    """The list that a file of this name belongs to, if any."""
    entities = _entities(name)
    if not entities:
        return None
    suffix = entities["suffix"]
    if is_volume_name(name) and suffix in VOLUME_SUFFIXES:
        preprocessed = "space" in entities or "desc" in entities
        wanted = preprocessed if suffix == "T1w" else entities.get("label") == "GM"
        return tree.volumes if wanted else None
    if is_volume_name(name) and suffix == "bold":
        return tree.bold if entities.get("desc") in BOLD_DESCS else None
    if name.endswith(".tsv") and suffix in EDGE_SUFFIXES:
        # time series of confounds, of components and of the scanner are of no atlas
        parcels = suffix == "relmat" or "atlas" in entities or "seg" in entities
        return tree.edges if parcels else None
    return None


def _entities(name: str) -> dict[str, str]:
    stem = volume_stem(name) if is_volume_name(name) else name.removesuffix(".tsv")
    entities = bids_entities(stem)
    return {**entities, "suffix": stem.rsplit("_", 1)[-1]} if entities else {}
