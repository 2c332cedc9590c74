"""What stands already where a score table is to go: nobody loses that of another run unasked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpc_brainage.errors import BrainAgeError, ScoringError
from hpc_brainage.files import read_json
from hpc_brainage.scoring.table import table_paths

_DIGITS = 8
_ANOTHER_OUT = "give this run another --out"


def check_place(out: Path, source: Mapping[str, Any], *, replace: bool) -> None:
    """Look at OUT.tsv, OUT.parquet and OUT.json before anything is scored.

    A table of the same model, store and selection is written anew, however its gaps were corrected.

    Parameters
    ----------
    source : what the new table is of: `model`, `store` and `where`, as in its sidecar.
    replace : whether the table of something else is replaced.

    Raises
    ------
    ScoringError : it is of something else, and is not; or what is there is no score table.
    """
    paths = table_paths(out)
    there = [path for path in paths.values() if path.exists()]
    if file := next((path for path in out.parents if path.is_file()), None):
        raise ScoringError(
            "a file is where the folder of the score table is to be",
            where=file,
            expected="a folder, or nothing yet",
            hint=_ANOTHER_OUT,
        )
    if folder := next((path for path in there if path.is_dir()), None):
        raise ScoringError(
            "a folder is where the score table is to go",
            where=folder,
            expected="a path where nothing is yet",
            hint=_ANOTHER_OUT,
        )
    if not there:
        return
    found, asked = _told_apart_by(_sidecar(paths["json"])), _told_apart_by(source)
    if not found:
        raise ScoringError(
            "what is there is no score table of `brainage score`; it is left as it is",
            where=", ".join(map(str, there)),
            expected="a path where nothing is yet, or a score table with its OUT.json",
            hint=f"{_ANOTHER_OUT}, or move it away yourself",
        )
    other = [kind for kind, (value, _) in asked.items() if found[kind][0] != value]
    if other and not replace:
        raise ScoringError(
            f"a score table of another {' and '.join(other)} is already there",
            where=f"{out}: {', '.join(found[kind][1] for kind in other)}",
            expected=", ".join(asked[kind][1] for kind in other),
            hint=f"{_ANOTHER_OUT}, or replace the table with --no-resume",
        )


def _sidecar(path: Path) -> Any:
    try:
        return read_json(path)
    except BrainAgeError:
        return None


def _told_apart_by(about: Any) -> dict[str, tuple[str | None, str]]:
    """Model, store and selection of a sidecar, each with how it is called; nothing where it is none."""
    try:
        model, store, where = about["model"], about["store"], about["where"]
        named = {
            kind: (one["sha256"], f"{kind} {one['name']} ({one['sha256'][:_DIGITS]})")
            for kind, one in (("model", model), ("store", store))
        }
    except (KeyError, TypeError):
        return {}
    return named | {"selection": (where, "all scans" if where is None else f"the scans with {where}")}
