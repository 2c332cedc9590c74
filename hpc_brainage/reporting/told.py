"""What a report on scores is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Told:
    """A scored cohort, and what was found in it.

    Attributes
    ----------
    table, about : the score table and its sidecar.
    contributions : what drives the predictions, by feature and group; None where it was not asked for.
    brain_maps : captions and PNG files of what regions contribute; none without an atlas.
    verdict : "yes", "care", "no" or "open" (it cannot be told).
    known : the scans that there is a gap of.
    group, reference : the column whose groups are compared, and the group compared with; None without.
    labels : the group of each scan that there is a gap of, "" where unknown; none without `group`.
    judged : whose predictions are held against their age.
    drawn : what the bootstrap drew: "sites", "people" or "".
    tables, notes, numbers : by name, as `evaluation.score_findings.Findings` has them.
    """

    table: pd.DataFrame
    about: Mapping[str, Any]
    contributions: pd.DataFrame | None
    brain_maps: tuple[tuple[str, bytes], ...]
    verdict: str
    known: pd.DataFrame
    group: str | None
    reference: str | None
    labels: tuple[str, ...]
    judged: str
    drawn: str
    tables: Mapping[str, pd.DataFrame]
    notes: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, float | None]

    def __getitem__(self, name: str) -> pd.DataFrame:
        """A table, empty where there is none."""
        return self.tables.get(name, pd.DataFrame())

    @cached_property
    def scored(self) -> pd.DataFrame:
        return self.table[(self.table["status"] == "scored").to_numpy()]

    @property
    def group_of_known(self) -> list[str]:
        """The group of each scan that there is a gap of; "" for all where nothing is compared."""
        return list(self.labels) or [""] * len(self.known)

    @property
    def model(self) -> str:
        return str((self.about.get("model") or {}).get("name") or "unnamed")

    @property
    def store(self) -> str:
        return str((self.about.get("store") or {}).get("name") or "unnamed")

    def of_judged(self, name: str, predictor: str | None = None) -> dict[str, Any]:
        """The row of a table about those whose predictions are held against their age, by the predictor."""
        rows = self[name][self[name]["people"] == self.judged]
        if predictor is not None:
            rows = rows[rows["predictor"] == predictor]
        return {str(k): v for k, v in rows.iloc[0].items()}
