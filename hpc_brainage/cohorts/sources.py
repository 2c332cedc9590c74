"""The front door: whatever lies at a path becomes a `Cohort`, and further sources are joined to it."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpc_brainage.cohorts.chosen_participants import only_participants
from hpc_brainage.cohorts.cohort import Account, Cohort
from hpc_brainage.cohorts.feature_choice import listed, matching_columns
from hpc_brainage.cohorts.freesurfer_tables import atlas_of, by_atlas_name
from hpc_brainage.cohorts.join import join, without_the_unmeasured
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.table_cohort import added_npz, added_table, main_npz, main_table
from hpc_brainage.cohorts.table_folder import measured_tables, people_of, role_of
from hpc_brainage.cohorts.tables import column_names, is_table, table_stem
from hpc_brainage.errors import CohortError, UsageError
from hpc_brainage.modality import ROLES, check_role, modality_name
from hpc_brainage.scans import with_plain_cells

_KNOWN = (
    "an OpenBHB folder, BIDS derivatives, a FreeSurfer subjects directory, a folder of CAT12's XML, of "
    "images, of ROI time series, or of participants.tsv and tables, a table (CSV, TSV, Parquet) or an .npz"
)


_WITHOUT_PEOPLE = ("freesurfer", "cat12", "volumes", "timeseries")  # readers of what says nobody's age
_WITHOUT_NAMED_COLUMNS = {
    "openbhb": "OpenBHB's own columns are known",
    **dict.fromkeys(_WITHOUT_PEOPLE, "this source has no table whose columns it names"),
}


@dataclass(frozen=True)
class AddedSource:
    """A source that is joined to the cohort.

    Parameters
    ----------
    role : "smri" or "fmri".
    name : of the modality; the file's own name if not given.
    path : a file, a folder, or a glob that matches several files of the same modality.
    arrays : for an .npz: which array is the "data", the "ids", the "names", where that is not clear.
    """

    role: str
    name: str | None
    path: Path
    arrays: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_role(self.role)

    @property
    def modality(self) -> str:
        """The name of the modality that the source becomes."""
        return modality_name(self.name) if self.name else modality_of(self.path)


def parse_added(text: str) -> AddedSource:
    """Read `role[/name]=PATH`, for an .npz also `role=PATH::data=A,ids=B,names=C`."""
    what, equals, where = text.partition("=")
    role, _, name = what.strip().partition("/")
    path, _, said = where.partition("::")
    arrays = dict(pair.split("=", 1) for pair in said.split(",") if "=" in pair)
    if not equals or not path.strip() or (said and len(arrays) != len(said.split(","))):
        raise UsageError(
            "an added source is not understood",
            where=f"--add {text}",
            expected="role[/name]=PATH, as in fmri/fc=connectomes.tsv (PATH::data=NAME for an .npz)",
        )
    return AddedSource(role, name or None, Path(path.strip()), arrays)


def open_cohort(
    source: Path,
    *,
    reading: Reading | None = None,
    add: Sequence[AddedSource] = (),
    where: str | None = None,
    name: str | None = None,
) -> Cohort:
    """Open a source, join the added ones to it, and keep the scans that have a measurement.

    Parameters
    ----------
    source : an OpenBHB folder, BIDS derivatives, a FreeSurfer subjects directory, a folder of CAT12's
        XML, of images or of ROI time series, a table or an .npz.
    reading : how this source and the added ones are read; as it stands by default if not given.
    add : further sources, joined by participant (and session).
    where : only these scans, as in "dx == 'TC'".
    name : of the cohort; if not given, the file's or folder's own, and "openbhb" for an OpenBHB.

    Raises
    ------
    CohortError : something on disk cannot be read as it stands, or no scan has a measurement.
    UsageError : a pattern, a role or a selection that fits nothing.
    """
    from hpc_brainage.cohorts.bids import check_atlas_used, check_entities_used
    from hpc_brainage.cohorts.resample import check_resample_heard

    reading = reading or Reading()
    source, beside = people_and_tables(source.expanduser())
    add = (*beside, *add)
    cohort = _open_main(source, reading)
    _refuse_said_in_vain(cohort, source, reading, joined=bool(add))
    cohort = replace(cohort, name=name) if name else cohort
    if cohort.recipe.get("reader") in _WITHOUT_PEOPLE:
        note = (
            f"{cohort.name}: nothing here says ages or sexes: scans can be scored, not trained on; for "
            "that, give the table of people as the source, and this with --add"
        )
        cohort = replace(cohort, account=cohort.account + Account(notes=(note,)))
    files = [(path, added) for added in add for path in _expand(added.path.expanduser(), added.role)]
    atlases = _atlases(files)
    for path, added in files:
        by_atlas = len(atlases.get((added.role, added.modality), ())) > 1
        cohort = join(cohort, _open_added(path, added, reading, cohort, by_atlas))
    notes = [
        f"{role}/{name}: its tables are of {' and '.join(of)}; what each says of a whole hemisphere is "
        f"named by its atlas, as in {by_atlas_name('lh_MeanThickness_thickness', of[0])}"
        for (role, name), of in atlases.items()
        if len(of) > 1
    ]
    cohort = replace(cohort, account=cohort.account + Account(notes=tuple(notes)))
    check_entities_used(reading.entities, cohort)
    check_atlas_used(reading.atlas, cohort)
    check_resample_heard(reading.resample, cohort)
    cohort = replace(cohort, recipe={**cohort.recipe, "options": reading.describe(where)})
    _check_measured(cohort, source, reading.features)
    cohort = replace(cohort, scans=with_plain_cells(cohort.scans))
    cohort = only_participants(cohort, reading.participants)
    chosen = without_the_unmeasured(cohort.where(where))
    if not len(chosen):
        raise UsageError(
            "none of the scans that the selection matches has a measurement",
            where="--participant-label" if where is None else f"--where {where!r}",
        )
    return chosen


def modality_of(path: Path) -> str:
    """A modality's name made from a path or glob: `smri_freesurfer6.csv.gz` becomes `freesurfer6`."""
    stem = _stem(path)
    if glob.has_magic(stem):
        head, *_, tail = re.split(r"[*?\[]", stem)
        stem = head.removeprefix("sub-") or tail or _without_pattern(path).name
    name = modality_name(stem)
    prefix = next((f"{role}_" for role in ROLES if name.startswith(f"{role}_")), "")
    return modality_name(name.removeprefix(prefix))


def cohort_name(source: Path) -> str:
    """A cohort's name: of the file or folder; `participants.tsv` or a glob is called after its folder."""
    source = _without_pattern(source.expanduser().absolute())
    stem = _stem(source)
    return modality_name(source.parent.name if stem == "participants" else stem)


def _stem(path: Path) -> str:
    """A file's name without the endings of its format."""
    from hpc_brainage.cohorts.volumes import volume_stem

    return table_stem(volume_stem(path.name))


def _without_pattern(path: Path) -> Path:
    """The folder that a glob starts from; a path without a pattern as it is."""
    patterns = [parent for parent in (path, *path.parents) if glob.has_magic(parent.name)]
    return patterns[-1].parent if patterns else path


def people_and_tables(source: Path) -> tuple[Path, list[AddedSource]]:
    """A folder that is a table of people and tables beside it, as these; any other source as it is."""
    people = None if _is_one_source(source) else people_of(source)
    if people is None:
        return source, []
    tables = measured_tables(source)
    called = {table: None if table.name.startswith(ROLES) else source.name for table in tables}
    return people, [AddedSource(role_of(table), called[table], table) for table in tables]


def _is_one_source(path: Path) -> bool:
    """Whether a reader of its own knows what lies at this path."""
    from hpc_brainage.cohorts.bids import is_bids
    from hpc_brainage.cohorts.cat12 import is_cat12
    from hpc_brainage.cohorts.freesurfer import is_freesurfer
    from hpc_brainage.cohorts.openbhb import is_openbhb
    from hpc_brainage.cohorts.openbhb_matrix import is_openbhb_matrix
    from hpc_brainage.cohorts.timeseries import is_timeseries
    from hpc_brainage.cohorts.volumes import is_volumes

    if is_openbhb_matrix(path) or (path.is_dir() and is_openbhb(path)):
        return True  # asked first: to tell time series, whole files are read, and a matrix has gigabytes
    readers = (is_bids, is_freesurfer, is_timeseries, is_cat12, is_volumes)
    return any(is_one(path) for is_one in readers)


def _open_main(source: Path, reading: Reading) -> Cohort:
    from hpc_brainage.cohorts.bids import is_bids, read_bids
    from hpc_brainage.cohorts.cat12 import is_cat12, read_cat12
    from hpc_brainage.cohorts.freesurfer import is_freesurfer, read_freesurfer
    from hpc_brainage.cohorts.openbhb import is_openbhb, read_openbhb
    from hpc_brainage.cohorts.openbhb_matrix import is_openbhb_matrix, read_openbhb_matrix
    from hpc_brainage.cohorts.timeseries import is_timeseries, read_timeseries
    from hpc_brainage.cohorts.volumes import is_volumes, read_volumes

    role, columns = reading.role, reading.columns
    if is_openbhb_matrix(source):
        return read_openbhb_matrix(source, "openbhb")
    if source.is_dir() and is_openbhb(source):
        return read_openbhb(source, "openbhb")  # whatever the folder is called
    if is_freesurfer(source):  # before BIDS, whose derivatives may be a subjects directory
        _check_structural(role, source)
        cohort = read_freesurfer(source)
    elif is_bids(source):
        cohort = read_bids(source, reading)
    elif is_cat12(source):
        _check_structural(role, source)
        cohort = read_cat12(source)
    elif is_volumes(source, role):
        cohort = read_volumes(source, role or "smri", modality_of(source), reading=reading)
    elif is_timeseries(source):
        cohort = read_timeseries(source, role or "fmri", modality_of(source), kind=reading.connectivity)
    elif source.suffix.lower() == ".npz":
        cohort = main_npz(source, columns, role, modality_of(source))
    elif source.is_file() and is_table(source):
        cohort = main_table(source, columns, role, modality_of(source), reading.features)
    else:
        raise _unknown(source)
    return replace(cohort, name=cohort_name(source))


def _atlases(files: Sequence[tuple[Path, AddedSource]]) -> dict[tuple[str, str], list[str]]:
    """The atlases of FreeSurfer's tables of the cortex, by the role and name of what they become."""
    found: dict[tuple[str, str], list[str]] = {}
    for path, added in files:
        if not (path.is_file() and is_table(path)):
            continue
        of = found.setdefault((added.role, added.modality), [])
        if (atlas := atlas_of(column_names(path)[0])) and atlas not in of:
            of.append(atlas)
    return {key: sorted(of) for key, of in found.items()}


def _open_added(
    path: Path, added: AddedSource, reading: Reading, main: Cohort, by_atlas: bool = False
) -> Cohort:
    """One added file or folder; it says who was scanned, and nothing else about them is used."""
    from hpc_brainage.cohorts.bids import added_bids, is_bids
    from hpc_brainage.cohorts.cat12 import is_cat12, read_cat12
    from hpc_brainage.cohorts.freesurfer import is_freesurfer, read_freesurfer
    from hpc_brainage.cohorts.timeseries import is_timeseries, read_timeseries
    from hpc_brainage.cohorts.volumes import is_volumes, read_volumes

    known = frozenset(main.scans["participant_id"])
    if path.suffix.lower() == ".npz":
        return added_npz(path, reading.columns, added.role, added.modality, added.arrays)
    if is_freesurfer(path):
        _check_structural(added.role, path)
        return read_freesurfer(path, added.name, known)
    if is_bids(path):
        name = modality_name(added.name) if added.name else None
        return added_bids(path, added.role, name, reading, known)
    if is_cat12(path):
        _check_structural(added.role, path)
        return read_cat12(path, added.name, known)
    if is_volumes(path, added.role):
        return read_volumes(path, added.role, added.modality, known, reading)
    if is_timeseries(path):
        return read_timeseries(path, added.role, added.modality, kind=reading.connectivity, known_ids=known)
    if path.is_file() and is_table(path):
        return added_table(
            path, reading.columns, added.role, added.modality, reading.features, known, by_atlas
        )
    raise _unknown(path)


def _expand(path: Path, role: str) -> list[Path]:
    """The files that a path means; a folder that is one source, or a glob of one, stays as it is."""
    from hpc_brainage.cohorts.volumes import is_volumes

    if path.is_file() or is_volumes(path, role) or _is_one_source(path):
        return [path]
    if path.is_dir():
        return measured_tables(path) or [path]
    found = sorted(map(Path, glob.glob(str(path))))  # noqa: PTH207 - any part of it may be a pattern
    if not found:
        raise CohortError("there is nothing at this path", where=path, expected=_KNOWN)
    return found


def _check_structural(role: str | None, path: Path) -> None:
    if role not in (None, "smri"):
        raise UsageError(f"FreeSurfer and CAT12 measure structure, not {role}", where=path, expected="smri")


def _refuse_said_in_vain(cohort: Cohort, source: Path, reading: Reading, joined: bool) -> None:
    """What is said about columns must be meant for a table that has them, or it would go unheard."""
    reader = cohort.recipe.get("reader")
    if reader not in _WITHOUT_NAMED_COLUMNS:
        return
    said = {
        **reading.columns.describe(),
        "role": reading.role,
        "features": reading.features,
        "connectivity": reading.connectivity,
    }
    heard = {"id", "session", "run", "features", "connectivity"} if joined else set()  # by an added source
    heard |= set() if reader == "openbhb" else {"role", "connectivity"}
    unheard = [what for what, value in said.items() if what not in heard and value not in (None, "pearson")]
    if unheard:
        flags = ", ".join("--" + what.replace("_", "-") for what in unheard)
        hint = "leave it out"
        if reader != "openbhb":
            hint = "give the table of people as the source, and this folder with --add"
        raise UsageError(
            f"{flags} would not be heard: {_WITHOUT_NAMED_COLUMNS[reader]}",
            where=source,
            hint=hint,
        )


def _unknown(path: Path) -> CohortError:
    if not path.exists() and not glob.glob(str(path)):  # noqa: PTH207 - any part of it may be a pattern
        return CohortError("there is nothing at this path", where=path, expected=_KNOWN)
    if path.is_dir() and not any(path.iterdir()):
        return CohortError("the folder is empty", where=path, expected=_KNOWN)
    hint = None
    if path.is_dir():
        tables = [file for file in sorted(path.glob("participants.*")) if is_table(file)]
        if tables:
            hint = f"give {tables[0].name} itself, and the measurements with --add role=PATH"
        elif tables := measured_tables(path):
            names = listed([table.name for table in tables], 4)
            hint = f"give the one that says who was scanned, the others with --add role=PATH: {names}"
    return CohortError("what lies here is not recognised", where=path, expected=_KNOWN, hint=hint)


def _check_measured(cohort: Cohort, source: Path, features: str | None) -> None:
    if not len(cohort):
        refused = cohort.account.refusals
        raise CohortError(
            f"none of the {len(refused)} scans can be used",
            where=source,
            hint=f"the first was refused because {refused[0].reason}" if refused else None,
        )
    names = [name for found in cohort.sources.values() for name in found.modality.features]
    recipes = [cohort.recipe, *cohort.recipe.get("added", [])]
    chosen = any("columns_by_pattern" in recipe for recipe in recipes)  # some have other names by now
    if features is not None and not chosen and not matching_columns(names, features):
        raise UsageError(
            "no column that could be a measurement has such a name", where=f"--features {features}"
        )
    if not cohort.sources:
        numbers = cohort.scans.select_dtypes("number").columns.drop("age")
        shown = ", ".join(map(str, numbers[:8])) or "none"
        raise CohortError(
            "nothing here is known to be a measurement of a brain",
            where=source,
            expected="columns named like FreeSurfer's, CAT12's or a connectome's, or --add role=PATH",
            hint=f"choose columns with --features 'GLOB'; number columns: {shown}",
        )
    if not any(found.present.any() for found in cohort.sources.values()):
        raise CohortError(
            "no scan has a measurement",
            where=f"{source}: {', '.join(cohort.sources)}",
            expected="a number in some column of measurements, for at least one scan",
            hint="see whether these columns hold anything but what stands for a missing value",
        )
