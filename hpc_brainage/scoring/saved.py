"""A score table that lies on disk, read as it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.files import read_json
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, scan_names

_SUFFIXES = (".parquet", ".tsv", ".json")
_NEEDED = (*SCAN_COLUMNS, "status", "brain_age", "model", "model_sha256", "store_sha256")
_TEXTS = (
    *(name for name in SCAN_COLUMNS if name != "age"),
    "status", "reason", "flags", "model", "model_sha256", "store_sha256", "software",
)  # fmt: skip
_ESCAPED = tuple(f"'{start}" for start in ("=", "+", "-", "@", "\t", "\r"))


@dataclass(frozen=True)
class SavedScores:
    """A score table and its sidecar.

    Attributes
    ----------
    name : of the table, without folder and suffix.
    table : one row per scan, as `SCHEMA` says.
    about : the content of OUT.json; empty if it is not there.
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
    """Read the score table OUT from its Parquet file, or from its TSV where there is no other.

    Parameters
    ----------
    path : OUT as given to `brainage score`, or one of its files, which then is the one that is read.

    Raises
    ------
    ScoringError : there is none, it cannot be read, is not a score table, or names a scan twice.
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
    try:
        table = pd.read_parquet(file) if file.suffix == ".parquet" else _from_tsv(file)
    except (OSError, ValueError) as problem:
        raise ScoringError(f"the score table cannot be read ({problem})", where=file) from None
    if lacking := [name for name in _NEEDED if name not in table]:
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
    sidecar = out.with_name(f"{out.name}.json")
    about = read_json(sidecar, ScoringError) if sidecar.is_file() else {}
    return SavedScores(out.name, table, about)


def _from_tsv(file: Path) -> pd.DataFrame:
    """The TSV with texts as they were before they were made safe for spreadsheets."""
    texts = dict.fromkeys((*IDENTITY, *_TEXTS), str)
    header = pd.read_csv(file, sep="\t", nrows=0).columns
    numbers = {name: [""] for name in header if name not in texts}
    table = pd.read_csv(file, sep="\t", dtype=texts, keep_default_na=False, na_values=numbers)
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool:
            table[name] = [
                cell[1:] if isinstance(cell, str) and cell.startswith(_ESCAPED) else cell
                for cell in table[name]
            ]
    return table
