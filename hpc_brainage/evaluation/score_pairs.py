"""Who in one score table is who in another.

Two tables hold *the same scans* if a participant, session and run of the one stand in the other at the same
age; then two models can be compared. They hold *repeated scans* if people of the one stand in the other
with another session, run or age, or, by the same model, in another store: scanned again, or processed
again. Then a model can be compared with itself. What is neither is not guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from hpc_brainage.errors import UsageError
from hpc_brainage.scans import IDENTITY, scan_names
from hpc_brainage.scoring.saved import SavedScores

SAME_AGE = 0.01
"""Years by which the age of one scan may differ between two tables."""
_SHOWN = 3


@dataclass(frozen=True)
class Pairs:
    """Rows of two tables side by side: row i of the one belongs to row i of the other.

    Attributes
    ----------
    kind : what the pairs are.
    why : by what that was told, in words.
    first, second : rows of the score tables.
    left_out : by reason, the names of the scans that are in no pair.
    """

    kind: Literal["same scans", "repeated scans"]
    why: str
    first: pd.DataFrame
    second: pd.DataFrame
    left_out: dict[str, tuple[str, ...]]


def pair_tables(a: SavedScores, b: SavedScores) -> Pairs:
    """Pair the scored rows of two tables.

    Raises
    ------
    UsageError : nobody is in both; they hold the same scans of one store by the same model; or repeated
        scans by two models: what differs between scans cannot be told from what differs between models.
    """
    same_model = a.one("model_sha256") == b.one("model_sha256")
    same_store = a.one("store_sha256") == b.one("store_sha256")
    tables = f"{a.name} and {b.name}"
    one, other = a.scored, b.scored
    left_out = _not_scored(a) | _not_scored(b)
    rows_a, rows_b = _by_identity(one, other)
    there, why_not = _alike(one.iloc[rows_a], other.iloc[rows_b])
    if there.any():
        if same_model and same_store:
            raise UsageError(
                "both tables are of the same scans by the same model",
                where=tables,
                expected="two models, or two scans of the same people",
                hint="sessions of one store: brainage score STORE --where \"session_id == '1'\" --out ...",
            )
        left_out |= _without_partner(a, one, rows_a) | _without_partner(b, other, rows_b)
        left_out |= {
            f"in both tables, but {reason}": tuple(scan_names(one.iloc[rows_a[why_not == reason]]))
            for reason in sorted(set(why_not) - {""})
        }
        why = "the same participants, sessions and runs, of the same ages"
        if same_model:
            why += ", in two stores: scanned again, or processed again"
        return Pairs(
            "repeated scans" if same_model else "same scans",
            why,
            one.iloc[rows_a[there]].reset_index(drop=True),
            other.iloc[rows_b[there]].reset_index(drop=True),
            left_out,
        )
    pairs = _by_person(a.name, b.name, one, other, left_out)
    if not len(pairs.first):
        raise UsageError(
            "nobody is in both tables",
            where=tables,
            expected="the same scans by two models, or scans of the same people",
            hint=f"{a.name} has {_some(one)}; {b.name} has {_some(other)}",
        )
    if not same_model:
        raise UsageError(
            "these are different scans of the same people, by different models",
            where=tables,
            expected="the same scans by two models, or two scans by one model",
            hint="score both scans with one of the models: what differs between scans cannot be told from"
            " what differs between models",
        )
    return pairs


def pair_visits(a: SavedScores) -> Pairs:
    """Pair the first two scored scans of each person in one table, in the order of age, session and run.

    Raises
    ------
    UsageError : nobody has two.
    """
    a.one("model_sha256")
    ordered = a.scored.sort_values(["age", "session_id", "run"], kind="stable", na_position="last")
    place = ordered.groupby("participant_id").cumcount()
    first, second = ordered[place == 0], ordered[place == 1]
    if second.empty:
        raise UsageError(
            "nobody has two scored scans in this table",
            where=a.name,
            expected="several sessions or runs of the same people, or two tables",
            hint="brainage compare SCORES_A SCORES_B",
        )
    pairs = _by_person(a.name, a.name, first, second, _not_scored(a))
    further = ordered[place > 1]
    if len(further):
        pairs.left_out[f"third and later scans of people in {a.name}"] = tuple(scan_names(further))
    return pairs


def _by_person(
    name_a: str, name_b: str, a: pd.DataFrame, b: pd.DataFrame, left_out: dict[str, tuple[str, ...]]
) -> Pairs:
    """The first row of each person in either table."""
    left_out = dict(left_out)
    firsts = []
    for name, table in ((name_a, a), (name_b, b)):
        again = table["participant_id"].duplicated()
        if again.any():
            left_out[f"further scans of people in {name}"] = tuple(scan_names(table[again]))
        firsts.append(table[~again].reset_index(drop=True))
    one, other = firsts
    place = {person: row for row, person in enumerate(other["participant_id"])}
    rows = np.array([place.get(person, -1) for person in one["participant_id"]], dtype=np.int64)
    both = rows >= 0
    first, second = one[both].reset_index(drop=True), other.iloc[rows[both]].reset_index(drop=True)
    for name, table, in_both in (
        (name_a, one, both),
        (name_b, other, np.isin(np.arange(len(other)), rows)),
    ):
        if not in_both.all():
            left_out[f"only one scan, in {name}"] = tuple(scan_names(table[~in_both]))
    differs = _contradict(first["sex"], second["sex"])
    if differs.any():
        left_out["in both tables, but of another sex"] = tuple(scan_names(first[differs]))
    return Pairs(
        "repeated scans",
        "the same participants, with another session, run or age",
        first[~differs].reset_index(drop=True),
        second[~differs].reset_index(drop=True),
        left_out,
    )


def _by_identity(a: pd.DataFrame, b: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the scans that have the same identity in both, in the order of the first."""
    place = {own: row for row, own in enumerate(b[list(IDENTITY)].itertuples(index=False, name=None))}
    found = [place.get(own, -1) for own in a[list(IDENTITY)].itertuples(index=False, name=None)]
    rows = np.array(found, dtype=np.int64)
    return np.flatnonzero(rows >= 0), rows[rows >= 0]


def _alike(a: pd.DataFrame, b: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Whether rows of one identity can be one scan, and what speaks against it ("" where nothing does)."""
    apart = np.abs(a["age"].to_numpy(dtype=float) - b["age"].to_numpy(dtype=float))
    why = np.full(len(a), "", dtype=object)
    why[np.nan_to_num(apart) > SAME_AGE] = "of another age"
    why[_contradict(a["sex"], b["sex"])] = "of another sex"
    return why == "", why


def _contradict(a: pd.Series, b: pd.Series) -> np.ndarray:
    one, other = a.to_numpy(dtype=object), b.to_numpy(dtype=object)
    return (one != other) & (one != "U") & (other != "U")


def _not_scored(scores: SavedScores) -> dict[str, tuple[str, ...]]:
    table = scores.table
    without = table[~((table["status"] == "scored") & np.isfinite(table["brain_age"]))]
    return {f"not scored in {scores.name}": tuple(scan_names(without))} if len(without) else {}


def _without_partner(
    scores: SavedScores, table: pd.DataFrame, paired: np.ndarray
) -> dict[str, tuple[str, ...]]:
    alone = table.drop(index=table.index[paired])
    return {f"only in {scores.name}": tuple(scan_names(alone))} if len(alone) else {}


def _some(table: pd.DataFrame) -> str:
    names = scan_names(table.head(_SHOWN))
    return ", ".join(names) + (", ..." if len(table) > _SHOWN else "") if names else "no scored scan"
