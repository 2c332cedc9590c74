"""A tree of BIDS derivatives: what fMRIPrep, XCP-D and their like leave behind.

`dataset_description.json`, and below `sub-*/[ses-*/]anat|func` preprocessed T1w images or grey matter
maps, ROI time series and relational matrices.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from hpc_brainage.cohorts.bids_files import (
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
from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, Refusal
from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.file_identity import Identity
from hpc_brainage.cohorts.join import join
from hpc_brainage.cohorts.relmat import read_relmats
from hpc_brainage.cohorts.timeseries import ConnectivityKind, read_timeseries
from hpc_brainage.cohorts.volumes import read_volumes
from hpc_brainage.errors import CohortError, UsageError

DESCRIPTION = "dataset_description.json"

_IMAGE = "structural image"
_EDGES = "time series or matrix"


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS data set or a tree of derivatives of one."""
    return (folder / DESCRIPTION).is_file() and any(path.is_dir() for path in folder.glob("sub-*"))


def read_bids(
    folder: Path,
    columns: ColumnMap | None = None,
    entities: str | None = None,
    connectivity: ConnectivityKind = "pearson",
) -> Cohort:
    """Read a tree as a cohort of its own, with the people of its tables (see `people_of_tree`).

    A scan is a visit of a participant; a participant may have an image, connectivity, or both. Runs are
    scans of their own where the tree has only one of the two. Modalities: `smri/t1w` or `smri/gm`
    (volumes), and `fmri/fc` (edges).

    Parameters
    ----------
    entities : "space=MNI152NLin2009cAsym,desc=preproc": which files are meant (see `choose`).
    connectivity : how time series become edges.

    Raises
    ------
    CohortError : no preprocessed file, several files that could be the one of a scan, or as the readers
        of images, time series, matrices and people. What is wrong with one scan only is in the account.
    """
    folder = folder.absolute()
    tree = find_candidates(folder)
    images, edges = _chosen(tree, entities, folder)
    visit = ("sub",) if _one_has_no_sessions(images.files, edges.files) else ("sub", "ses")
    both = bool(images.files and edges.files)
    for files, what in ((images.files, _IMAGE), (edges.files, _EDGES)):
        refuse_ambiguous(files, what, visit, one_run=both)
        refuse_mixture(files, parse_entities(entities), what)
    found = _scans([*images.files, *edges.files], len(visit), with_runs=not both)
    people = people_of_tree(folder, found, columns or ColumnMap())
    misplaced = tuple(_misplaced(file, folder) for file in tree.misplaced)
    rows = JoinedSource(folder.name, rows=len(found), matched=len(people.scans))
    account = Account((rows,), misplaced, images.notes + edges.notes) + people.account
    recipe = {
        "reader": "bids",
        "files": list(people.files),
        "entities": _used(entities, images, edges),
    }
    cohort = Cohort(folder.name, people.scans, {}, account, recipe)
    if images.files:
        cohort = join(cohort, _read_images(images.files, "smri", None))
    if edges.files:
        cohort = join(cohort, _read_edges(edges.files, "fmri", None, connectivity))
    return cohort


def added_bids(
    folder: Path,
    role: str,
    name: str | None,
    entities: str | None = None,
    connectivity: ConnectivityKind = "pearson",
    known_ids: Collection[str] | None = None,
) -> Cohort:
    """The images (role "smri") or the connectivity (role "fmri") of a tree, to be joined to a cohort.

    What the tree's tables say about people is not used. `name` is of the modality: "t1w", "gm" or "fc"
    if not given. Raises as `read_bids`.
    """
    folder = folder.absolute()
    tree = find_candidates(folder)
    images, edges = _chosen(tree, entities, folder)
    chosen = images if role == "smri" else edges
    what = _IMAGE if role == "smri" else _EDGES
    if not chosen.files:
        raise CohortError(f"this tree has no {what}", where=folder, hint=_other_trees(folder))
    refuse_ambiguous(chosen.files, what, ("sub", "ses"), one_run=False)
    refuse_mixture(chosen.files, parse_entities(entities), what)
    if role == "smri":
        cohort = _read_images(chosen.files, role, name)
    else:
        cohort = _read_edges(chosen.files, role, name, connectivity)
    known = set(known_ids or ())
    misplaced = tuple(_misplaced(file, folder) for file in tree.misplaced if file["sub"] in known)
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


def _chosen(tree: Tree, entities: str | None, folder: Path) -> tuple[Chosen, Chosen]:
    wanted = parse_entities(entities)
    images = choose(tree.volumes, wanted, _IMAGE, folder)
    edges = choose(tree.edges, wanted, _EDGES, folder)
    if not images.files and not edges.files:
        suffixes = sorted({file["suffix"] for file in (*tree.volumes, *tree.edges)})
        raise CohortError(
            "this BIDS tree has no preprocessed image and no connectivity",
            where=folder,
            expected="*_desc-preproc_T1w.nii.gz, *_label-GM_probseg.nii.gz, or *_timeseries.tsv or "
            "*_relmat.tsv of an atlas",
            hint=f"suffix={' or '.join(suffixes)}" if suffixes else _other_trees(folder),
        )
    return images, edges


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


def _read_images(files: Sequence[BidsFile], role: str, name: str | None) -> Cohort:
    usual = "t1w" if files[0]["suffix"] == "T1w" else "gm"
    return read_volumes([file.path for file in files], role, name or usual)


def _read_edges(files: Sequence[BidsFile], role: str, name: str | None, kind: ConnectivityKind) -> Cohort:
    paths = [file.path for file in files]
    if files[0]["suffix"] == "relmat":
        return read_relmats(paths, role, name or "fc")
    return read_timeseries(paths, role, name or "fc", kind=kind)


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
