"""What a scoring run left on disk, read as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.files import read_json
from hpc_brainage.scans import SCAN_COLUMNS, scan_names
from hpc_brainage.scoring.table import COLUMNS, without_escape

_SUFFIXES = (".parquet", ".tsv", ".json")
_EARLIER = (1, 2)
_VERSIONS = (*_EARLIER, 3)
_EARLIER_NAMES = {"held_out": "in_training"}  # up to version 2
_NEEDED = (
    *SCAN_COLUMNS, "status", "reason", "brain_age", "bag", "flags", "model", "model_sha256", "store_sha256",
)  # fmt: skip
_OF_CONTRIBUTIONS = ("role", "feature", "group", "mean_contribution_years", "n")
_DTYPES = {"text": "str", "truth": "boolean"}  # a number is whole or not, as it stands
_KINDS_OF_CONTRIBUTIONS = {
    "mean_contribution_years": "number", "mean_absolute_contribution_years": "number", "n": "number"
}  # fmt: skip


@dataclass(frozen=True)
class SavedScores:
    """A score table and its sidecar.

    Attributes
    ----------
    name : of the table, without folder and suffix.
    table : one row per scan, as `SCHEMA` says; columns of earlier versions under their present names.
    about : the content of OUT.json.
    """

    name: str
    table: pd.DataFrame
    about: dict[str, Any]

    @property
    def scored(self) -> pd.DataFrame:
        """The rows with a brain age, in their order."""
        there = (self.table["status"] == "scored") & np.isfinite(self.table["brain_age"])
        return self.table[there].reset_index(drop=True)

    def one(self, column: str) -> str:
        """What a column says of every row, as `model_sha256` does.

        Raises
        ------
        ScoringError : rows differ: the table was put together from several runs.
        """
        values = self.table[column].unique().tolist()
        if len(values) != 1:
            raise ScoringError(
                f"the table holds {len(values)} different {column}",
                where=self.name,
                expected="the table of one run of `brainage score`",
            )
        return str(values[0])


def read_scores(path: Path) -> SavedScores:
    """Read the score table OUT from its Parquet file, or its TSV where there is no other, and OUT.json.

    Parameters
    ----------
    path : OUT as given to `brainage score`, or one of its files, which then is the one that is read.

    Raises
    ------
    ScoringError : a file is missing, damaged, of another version or not of the same run as the other; the
        table is not a score table, or names a scan twice.
    """
    out = path.with_suffix("") if path.suffix in _SUFFIXES else path
    kinds = [path.suffix] if path.suffix in (".parquet", ".tsv") else [".parquet", ".tsv"]
    files = [out.with_name(out.name + kind) for kind in kinds]
    file = next((one for one in files if one.is_file()), None)
    if file is None:
        raise ScoringError(
            "there is no score table", where=out, expected=" or ".join(one.name for one in files),
            hint="brainage score STORE --out OUT",
        )  # fmt: skip
    sidecar = out.with_name(f"{out.name}.json")
    kinds_of = _kinds(sidecar)
    try:
        table = pd.read_parquet(file) if file.suffix == ".parquet" else _read_tsv(file, kinds_of)
    except (OSError, ValueError) as problem:
        raise _damaged(f"the score table cannot be read ({problem})", file) from None
    if lacking := [name for name in _NEEDED if name not in table]:
        if (version := _content(sidecar).get("schema_version")) in _EARLIER:
            raise ScoringError(
                f"this is a score table of an early version {version}, which lacks what is read today",
                where=file,
                expected=f"also the columns {', '.join(lacking)}",
                hint="score the store again",
            )
        raise ScoringError(
            "this is not a score table", where=file, expected=f"also the columns {', '.join(lacking)}"
        )
    for name in ("age", "brain_age"):
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ScoringError(
                f"{name} is not a number in every row", where=file, expected="years, or empty"
            )
    names = pd.Series(scan_names(table))
    if (twice := names[names.duplicated()]).size:
        raise ScoringError(
            f"{len(twice)} scans stand there more than once",
            where=f"{file}: {', '.join(twice.head(3))}",
            expected="one row for each scan",
        )
    about = _sidecar(sidecar, len(table))
    if about["schema_version"] in _EARLIER:
        table = table.rename(columns=_EARLIER_NAMES)
    return SavedScores(out.name, table, about)


def read_contributions(out: Path) -> pd.DataFrame | None:
    """What drives the predictions, by feature and group: OUT_contributions.tsv, None where there is none.

    Raises
    ------
    ScoringError : it cannot be read, or is not what `brainage score --contributions` writes.
    """
    path = out.with_name(f"{out.name}_contributions.tsv")
    if not path.is_file():
        return None
    try:
        table = _read_tsv(path, _KINDS_OF_CONTRIBUTIONS)
    except ValueError as problem:
        raise _damaged(f"the contributions cannot be read ({problem})", path) from None
    if missing := [name for name in _OF_CONTRIBUTIONS if name not in table]:
        raise _damaged(f"the contributions lack the columns {', '.join(missing)}", path)
    return table


def _sidecar(path: Path, scans: int) -> dict[str, Any]:
    """The content of OUT.json, which must be of this table."""
    if not path.is_file():
        raise ScoringError(
            "the score table has no sidecar, which says of which model and store it is",
            where=path,
            expected="OUT.json beside OUT.parquet, as `brainage score` writes them",
        )
    about = _content(path)
    if (version := about.get("schema_version")) not in _VERSIONS:
        raise ScoringError(
            f"a score table of version {version!r}",
            where=path,
            expected=f"version {' or '.join(map(str, _VERSIONS))}",
            hint="score the store again, or take the hpc-brainage that wrote the table",
        )
    if (said := (about.get("summary") or {}).get("scans")) != scans:
        raise ScoringError(
            f"the sidecar is about {said} scans, the table has {scans}",
            where=path,
            expected="files of the same run",
            hint="score the store again",
        )
    return about


def _content(path: Path) -> dict[str, Any]:
    """What a sidecar says; nothing where there is none."""
    try:
        found = read_json(path, ScoringError) if path.is_file() else {}
    except ScoringError as problem:
        raise _damaged(problem.what, path) from None
    return found if isinstance(found, dict) else {}


def _damaged(what: str, file: Path) -> ScoringError:
    return ScoringError(
        what,
        where=file,
        expected="the whole file, as `brainage score` wrote it",
        hint="copy the table again, all of its files together; or score the store again",
    )


def _kinds(sidecar: Path) -> dict[str, str]:
    """What each column holds, also those of the cohort, of which only the sidecar knows it."""
    about = _content(sidecar)
    kinds: dict[str, str] = {name: column.kind for name, column in COLUMNS.items()}
    if about.get("schema_version") in _EARLIER:
        kinds |= {earlier: kinds[name] for earlier, name in _EARLIER_NAMES.items()}
    said = about.get("column_kinds")
    return kinds | (said if isinstance(said, dict) else {})


def _read_tsv(file: Path, kinds: Mapping[str, str]) -> pd.DataFrame:
    """The table of a TSV; a column of which no kind is known stays the text that stands there."""
    header = pd.read_csv(file, sep="\t", nrows=0).columns
    of = {name: kinds.get(name, "text") for name in header}
    table = pd.read_csv(
        file,
        sep="\t",
        dtype={name: _DTYPES[kind] for name, kind in of.items() if kind in _DTYPES},
        keep_default_na=False,
        na_values={name: [""] for name, kind in of.items() if kind != "text"},
    )
    for name, kind in of.items():
        if kind == "text":
            table[name] = table[name].map(without_escape)
        elif kind == "truth" and table[name].notna().all():
            table[name] = table[name].astype(bool)
    return table
