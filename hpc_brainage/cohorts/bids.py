"""A tree of BIDS derivatives: what fMRIPrep, XCP-D and their like leave behind.

`dataset_description.json`, and below `sub-*/[ses-*/]anat|func` preprocessed T1w images or grey matter
maps, ROI time series and relational matrices.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from hpc_brainage.cohorts.bids_files import (
    PERSONAL_SPACES,
    BidsFile,
    Chosen,
    Tree,
    choose,
    find_candidates,
    parse_entities,
    refuse_ambiguous,
    refuse_mixture,
)
from hpc_brainage.cohorts.bids_people import people_of_tree
from hpc_brainage.cohorts.bold import read_bold
from hpc_brainage.cohorts.chosen_participants import only_participants
from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, Refusal
from hpc_brainage.cohorts.file_identity import Identity
from hpc_brainage.cohorts.join import join
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.relmat import read_relmats
from hpc_brainage.cohorts.timeseries import read_timeseries
from hpc_brainage.cohorts.volumes import read_volumes
from hpc_brainage.errors import CohortError, UsageError

DESCRIPTION = "dataset_description.json"

_IMAGE = "structural image"
_EDGES = "time series or matrix"
_BOLD = "BOLD series"


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS data set or a tree of derivatives of one."""
    return (folder / DESCRIPTION).is_file() and any(path.is_dir() for path in folder.glob("sub-*"))


def read_bids(folder: Path, reading: Reading | None = None) -> Cohort:
    """Read a tree as a cohort of its own, with the people of its tables (see `people_of_tree`).

    A scan is a visit of a participant; a participant may have an image, connectivity, or both. Runs are
    scans of their own where the tree has only one of the two. Modalities: `smri/t1w` or `smri/gm`
    (volumes), and `fmri/fc` (edges), or `fmri/<atlas>` where edges are made of BOLD series.

    Parameters
    ----------
    reading : its entities say which files are meant (see `choose`); with an atlas, BOLD series count and
        not the time series and matrices of others; of people who are not asked for, no file is opened.

    Raises
    ------
    CohortError : no preprocessed file, several files that could be the one of a scan, or as the readers
        of images, time series, matrices and people. What is wrong with one scan only is in the account.
    """
    reading = reading or Reading()
    entities = reading.entities
    folder = folder.absolute()
    tree = find_candidates(folder)
    images, edges = _chosen(tree, reading, folder)
    visit = ("sub",) if _one_has_no_sessions(images.files, edges.files) else ("sub", "ses")
    both = bool(images.files and edges.files)
    for files, what in ((images.files, _IMAGE), (edges.files, _kind_of(edges.files))):
        refuse_ambiguous(files, what, visit, one_run=both)
        refuse_mixture(files, parse_entities(entities), what)
    found = _scans([*images.files, *edges.files], len(visit), with_runs=not both)
    people = people_of_tree(folder, found, reading.columns)
    misplaced = tuple(_misplaced(file, folder) for file in _misplaced_of(tree, reading))
    rows = JoinedSource(folder.name, rows=len(found), matched=len(people.scans))
    account = Account((rows,), misplaced, images.notes + edges.notes) + people.account
    recipe = {
        "reader": "bids",
        "files": list(people.files),
        "entities": _used(entities, images, edges),
    }
    cohort = Cohort(folder.name, people.scans, {}, account, recipe)
    asked_for = only_participants(cohort, reading.participants)
    known = None if reading.participants is None else set(asked_for.scans["participant_id"])
    unread = len(cohort) - len(asked_for)
    for chosen, read, role in ((images, _read_images, "smri"), (edges, _read_edges, "fmri")):
        if files := _files_of(known, chosen.files):
            cohort = join(cohort, read(files, role, None, reading))
            *before, joined = cohort.account.sources
            joined = replace(joined, without=joined.without - unread)
            cohort = replace(cohort, account=replace(cohort.account, sources=(*before, joined)))
    return cohort


def added_bids(
    folder: Path,
    role: str,
    name: str | None,
    reading: Reading | None = None,
    known_ids: Collection[str] | None = None,
) -> Cohort:
    """The images (role "smri") or the connectivity (role "fmri") of a tree, to be joined to a cohort.

    What the tree's tables say about people is not used. `name` is of the modality: "t1w", "gm" or "fc"
    if not given. Raises as `read_bids`.
    """
    reading = reading or Reading()
    entities = reading.entities
    folder = folder.absolute()
    tree = find_candidates(folder)
    images, edges = _chosen(tree, reading, folder)
    chosen = images if role == "smri" else edges
    what = _IMAGE if role == "smri" else _kind_of(edges.files)
    if not chosen.files:
        raise CohortError(f"this tree has no {what}", where=folder, hint=_other_trees(folder))
    refuse_ambiguous(chosen.files, what, ("sub", "ses"), one_run=False)
    refuse_mixture(chosen.files, parse_entities(entities), what)
    files = _files_of(reading.participants, chosen.files) or chosen.files  # none: `join` tells whose
    cohort = (_read_images if role == "smri" else _read_edges)(files, role, name, reading)
    known = set(known_ids or ())
    misplaced = tuple(
        _misplaced(file, folder) for file in _misplaced_of(tree, reading) if file["sub"] in known
    )
    account = cohort.account + Account(refusals=misplaced, notes=chosen.notes)
    recipe = {**cohort.recipe, "entities": _used(entities, images, edges)}
    return replace(cohort, account=account, recipe=recipe)


def check_entities_used(entities: str | None, cohort: Cohort) -> None:
    """Raise `UsageError` for an entity that chose nothing in any source of a cohort: a slip of the pen."""
    recipes = [cohort.recipe, *cohort.recipe.get("added", [])]
    used = {entity for recipe in recipes for entity in recipe.get("entities", {})}
    for entity in parse_entities(entities):
        if entity not in used:
            raise UsageError(
                f"no file that could be chosen has the entity {entity!r}",
                where=f"--entities {entities}",
                expected="entities of a BIDS tree's file names, such as space, desc, res, label or atlas",
            )


def check_atlas_used(atlas: Path | None, cohort: Cohort) -> None:
    """Raise `UsageError` for an atlas that met no BOLD series in any source of a cohort."""
    recipes = [cohort.recipe, *cohort.recipe.get("added", [])]
    if atlas is not None and not any("atlas" in recipe for recipe in recipes):
        raise UsageError(
            "there is no BOLD series that the atlas could be used for",
            where=f"--atlas {atlas}",
            expected="derivatives of fMRIPrep, with func/*_space-X_desc-preproc_bold.nii.gz of a standard "
            "space and the confounds beside it",
            hint="give that tree as the source or with --add fmri=PATH, or leave --atlas out",
        )


def _chosen(tree: Tree, reading: Reading, folder: Path) -> tuple[Chosen, Chosen]:
    wanted = parse_entities(reading.entities)
    images = choose(tree.volumes, wanted, _IMAGE, folder)
    if reading.atlas is not None and tree.bold:
        standard = _standard_bold(tree, reading, folder)
        edges = choose(standard, wanted, _BOLD, folder)
        edges = replace(edges, notes=(*edges.notes, *_left_aside(tree, standard, folder)))
    else:
        edges = choose(tree.edges, wanted, _EDGES, folder)
    if tree.bold and reading.atlas is None:
        hint = "say by which atlas they become connectivity: --atlas LABELS.nii.gz"
        if not images.files and not edges.files:
            raise CohortError(
                f"this BIDS tree has nothing but {len(tree.bold)} BOLD series", where=folder, hint=hint
            )
        note = f"{folder.name}: {len(tree.bold)} BOLD series are left aside; {hint}"
        edges = replace(edges, notes=(*edges.notes, note))
    if not images.files and not edges.files:
        suffixes = sorted({file["suffix"] for file in (*tree.volumes, *tree.edges)})
        raise CohortError(
            "this BIDS tree has no preprocessed image and no connectivity",
            where=folder,
            expected="*_desc-preproc_T1w.nii.gz, *_label-GM_probseg.nii.gz, or *_timeseries.tsv or "
            "*_relmat.tsv of an atlas, or *_desc-preproc_bold.nii.gz with --atlas",
            hint=f"suffix={' or '.join(suffixes)}" if suffixes else _other_trees(folder),
        )
    return images, edges


def _standard_bold(tree: Tree, reading: Reading, folder: Path) -> list[BidsFile]:
    """BOLD series in a standard space of the kind that the strategy for confounds is meant for."""
    desc = "smoothAROMAnonaggr" if reading.confounds == "ica_aroma" else "preproc"
    standard = [file for file in tree.bold if file["space"] not in PERSONAL_SPACES and file["desc"] == desc]
    if not standard:
        raise CohortError(
            f"none of the {len(tree.bold)} BOLD series of this tree can meet the atlas",
            where=folder,
            expected=f"*_space-X_desc-{desc}_bold.nii.gz, X a standard space such as MNI152NLin2009cAsym",
            hint="fMRIPrep writes these up to 23.2, with --use-aroma: choose another --confounds"
            if desc != "preproc"
            else "run fMRIPrep with --output-spaces MNI152NLin2009cAsym",
        )
    return standard


def _left_aside(tree: Tree, standard: Sequence[BidsFile], folder: Path) -> list[str]:
    notes = []
    if others := len(tree.bold) - len(standard):
        notes.append(
            f"{folder.name}: {others} BOLD series in people's own space, or of the other kind "
            "(preprocessed or cleaned by ICA-AROMA), are left aside"
        )
    if tree.edges:
        notes.append(
            f"{folder.name}: connectivity is made of BOLD series; {len(tree.edges)} time series and "
            "matrices of other atlases are left aside"
        )
    return notes


def _kind_of(edges: Sequence[BidsFile]) -> str:
    return _BOLD if edges and edges[0]["suffix"] == "bold" else _EDGES


def _files_of(participants: Collection[str] | None, files: Sequence[BidsFile]) -> list[BidsFile]:
    return [file for file in files if participants is None or file["sub"] in participants]


def _misplaced_of(tree: Tree, reading: Reading) -> list[BidsFile]:
    return [file for file in tree.misplaced if reading.atlas is not None or file["suffix"] != "bold"]


def _scans(files: Sequence[BidsFile], visit: int, *, with_runs: bool) -> list[Identity]:
    """Identities of the scans, sorted; the session of a visit is the one that any of its files names."""
    sessions: dict[tuple[str, ...], str] = {}
    for file in files:
        who = file.identity[:visit]
        sessions[who] = sessions.get(who) or file["ses"]
    return sorted(
        {(file["sub"], sessions[file.identity[:visit]], file["run"] if with_runs else "") for file in files}
    )


def _one_has_no_sessions(images: Sequence[BidsFile], edges: Sequence[BidsFile]) -> bool:
    """fMRIPrep makes one image of all visits of a person, and names no session in it."""
    with_sessions = [any(file["ses"] for file in files) for files in (images, edges) if files]
    return len(set(with_sessions)) == 2


def _read_images(files: Sequence[BidsFile], role: str, name: str | None, reading: Reading) -> Cohort:
    usual = "t1w" if files[0]["suffix"] == "T1w" else "gm"
    return read_volumes([file.path for file in files], role, name or usual, reading=reading)


def _read_edges(files: Sequence[BidsFile], role: str, name: str | None, reading: Reading) -> Cohort:
    paths = [file.path for file in files]
    if files[0]["suffix"] == "bold":
        return read_bold(paths, role, name, reading)
    if files[0]["suffix"] == "relmat":
        return read_relmats(paths, role, name or "fc")
    return read_timeseries(paths, role, name or "fc", kind=reading.connectivity)


def _misplaced(file: BidsFile, folder: Path) -> Refusal:
    place = file.path.relative_to(folder).parts[0]
    return Refusal(*file.identity, folder.name, f"{file.path.name} lies in the folder of {place}")


def _used(entities: str | None, *chosen: Chosen) -> dict[str, list[str]]:
    used = {entity for each in chosen for entity in each.used}
    return {entity: list(values) for entity, values in parse_entities(entities).items() if entity in used}


def _other_trees(folder: Path) -> str | None:
    """What to tell about a raw data set: where its derivatives are."""
    trees = sorted(path.parent for path in folder.glob(f"derivatives/*/{DESCRIPTION}"))
    if not trees:
        return None
    return f"give its derivatives instead: {' or '.join(str(tree) for tree in trees[:3])}"
