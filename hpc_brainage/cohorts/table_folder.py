"""A folder with a table of people and tables of their measurements: a cohort as people share it."""

from __future__ import annotations

from pathlib import Path

from hpc_brainage.cohorts.feature_names import brain_columns, edge_columns
from hpc_brainage.cohorts.tables import column_names, is_table, table_stem
from hpc_brainage.errors import CohortError
from hpc_brainage.modality import ROLES

PEOPLE = "participants"
_MEASURED_SHARE = 0.5  # of a table's columns


def people_of(folder: Path) -> Path | None:
    """The table of people of such a folder; None if it is something else, or holds tables only of them."""
    if not folder.is_dir():
        return None
    people = [file for file in sorted(folder.glob(f"{PEOPLE}.*")) if is_table(file)]
    return people[0] if len(people) == 1 and measured_tables(folder) else None


def measured_tables(folder: Path) -> list[Path]:
    """The tables and matrices of a folder, but for that of the people, sorted."""
    files = [file for file in sorted(folder.iterdir()) if is_table(file) or file.suffix == ".npz"]
    return [file for file in files if table_stem(file.name) != PEOPLE]


def role_of(table: Path) -> str:
    """The role of a table by the beginning of its name (`smri_...`, `fmri_...`), or by its columns.

    Raises
    ------
    CohortError : neither says it.
    """
    for role in ROLES:
        if table.name.startswith(f"{role}_"):
            return role
    names = column_names(table) if is_table(table) else []
    if len(edge_columns(names)) > _MEASURED_SHARE * len(names):
        return "fmri"
    if len(brain_columns(names)) > _MEASURED_SHARE * len(names):
        return "smri"
    raise CohortError(
        "nothing says whether this table is structural or functional",
        where=table,
        expected="columns named as by FreeSurfer or CAT12, or a file name that begins with smri_ or fmri_",
        hint=f"give {PEOPLE}{table.suffix} itself as the source, and the measurements with --add role=PATH",
    )
