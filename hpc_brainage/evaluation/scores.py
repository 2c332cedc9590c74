"""The scores that a report is about: the table, its sidecar, and what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.scoring.saved import read_scores

_VERSIONS = (1, 2)
_NEEDED = ("reason", "bag", "flags")
_CONTRIBUTION_COLUMNS = ("role", "feature", "group", "mean_contribution_years", "n")


@dataclass(frozen=True)
class Scores:
    """What a scoring run left.

    Attributes
    ----------
    path : of the run, without suffix.
    table : the score table, one row for each scan; `docs/score-table.md` has the columns.
    about : the sidecar.
    contributions : what drives the predictions, by feature and group; None where that was not asked for.
    """

    path: Path
    table: pd.DataFrame
    about: dict[str, Any]
    contributions: pd.DataFrame | None


def scores_to_report(path: Path) -> Scores:
    """Read `OUT.parquet` (or the TSV), `OUT.json` and, where it is, `OUT_contributions.tsv`.

    Parameters
    ----------
    path : `OUT`, or any of `OUT.tsv`, `OUT.parquet` and `OUT.json`.

    Raises
    ------
    ScoringError : a file is missing, damaged, of another version, or not of the same run as the others.
    """
    saved = read_scores(path)
    out = path.with_name(saved.name)
    sidecar = out.with_name(f"{out.name}.json")
    if not sidecar.is_file():
        raise ScoringError(
            "the score table has no sidecar, which says of which model and store it is",
            where=sidecar,
            expected="OUT.json beside OUT.parquet, as `brainage score` writes them",
        )
    about = saved.about if isinstance(saved.about, dict) else {}
    if (version := about.get("schema_version")) not in _VERSIONS:
        raise ScoringError(
            f"a score table of version {version!r}",
            where=sidecar,
            expected=f"version {' or '.join(map(str, _VERSIONS))}",
            hint="score the store again, or take the hpc-brainage that wrote the table",
        )
    if missing := [name for name in _NEEDED if name not in saved.table]:
        raise ScoringError(f"the score table lacks the columns {', '.join(missing)}", where=out)
    if (said := (about.get("summary") or {}).get("scans")) != len(saved.table):
        raise ScoringError(
            f"the sidecar is about {said} scans, the table has {len(saved.table)}",
            where=out,
            expected="files of the same run",
            hint="score the store again",
        )
    contributions = _contributions(out.with_name(f"{out.name}_contributions.tsv"))
    return Scores(out, saved.table, about, contributions)


def _contributions(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    texts = dict.fromkeys(("role", "feature", "group"), str)
    empty = {"mean_contribution_years": [""], "mean_absolute_contribution_years": [""], "n": [""]}
    try:
        table = pd.read_csv(path, sep="\t", dtype=texts, keep_default_na=False, na_values=empty)
    except ValueError as problem:
        raise ScoringError(f"the contributions cannot be read ({problem})", where=path) from None
    if missing := [name for name in _CONTRIBUTION_COLUMNS if name not in table]:
        raise ScoringError(f"the contributions lack the columns {', '.join(missing)}", where=path)
    return table
