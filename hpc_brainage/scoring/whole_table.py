"""What is done once every scan has its row: it takes the other rows, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.model.bundle import BiasLine, ModelInfo
from hpc_brainage.numerals import number
from hpc_brainage.scans import select_scans
from hpc_brainage.scoring.bias import (
    FEWEST_PEOPLE,
    IN_COHORT,
    METHOD,
    STILL_A_TREND,
    Method,
    correct_table,
    doubtful_lines,
    fit_bias_lines,
    line_names,
)
from hpc_brainage.scoring.interpretation import available
from hpc_brainage.scoring.local_controls import check_controls
from hpc_brainage.scoring.quality import judge_quality
from hpc_brainage.scoring.saved import SavedScores
from hpc_brainage.scoring.site_calibration import calibrate_sites
from hpc_brainage.scoring.site_notes import in_the_sidecar, notes_on_sites
from hpc_brainage.scoring.table import SCHEMA, SITE_COLUMNS


@dataclass(frozen=True)
class Finished:
    """The whole table, what to say of it, and what goes into its sidecar."""

    table: pd.DataFrame
    notes: tuple[str, ...]
    about: dict[str, Any]


@dataclass(frozen=True)
class WholeTable:
    """How gaps are corrected, by whom, and which sites are calibrated.

    Attributes
    ----------
    bias : how the trend in age is taken out.
    fit_bias_on_cohort : whether the lines are fitted on the scored scans themselves.
    controls : then on which of them (see `select_scans`); by default on all.
    local_controls : scores of controls of sites that the model has not seen.
    """

    bias: Method = METHOD
    fit_bias_on_cohort: bool = False
    controls: str | None = None
    local_controls: SavedScores | None = None

    def check(self, scans: pd.DataFrame, *, model_sha256: str, store_sha256: str) -> None:
        """Find out before anything is scored whether this can be done with the scans that are to be.

        Raises
        ------
        UsageError, ScoringError : it cannot.
        """
        if self.controls is not None and not self.fit_bias_on_cohort:
            raise UsageError(
                "controls were named, and nothing is fitted on them",
                where=f"--controls {self.controls!r}",
                hint="add --fit-bias-on-cohort, or leave --controls out",
            )
        if self.fit_bias_on_cohort and self.bias == "none":
            raise UsageError("there is no bias correction to fit", where="--fit-bias-on-cohort --bias none")
        if self.fit_bias_on_cohort:
            chosen = select_scans(scans, self.controls, said="--controls")
            self._enough(int((chosen & scans["age"].notna()).sum()), "scans")
        if self.local_controls is not None:
            check_controls(self.local_controls, scans, model_sha256=model_sha256, store_sha256=store_sha256)

    def finish(self, table: pd.DataFrame, scans: pd.DataFrame, info: ModelInfo) -> Finished:
        """Correct the gaps, calibrate sites and judge the quality of images.

        Parameters
        ----------
        scans : the store's scans that the rows are of, in the same order; controls are chosen by these.

        Raises
        ------
        ScoringError : too few controls for a line; or a slope is too small for the correction asked for.
        """
        lines: Mapping[str, BiasLine] = info.bias
        notes: list[str] = []
        if self.fit_bias_on_cohort:
            lines = self._fitted(table, scans)
            notes.append(
                "WARNING: the bias line was fitted on the scored scans themselves"
                f" ({IN_COHORT}): it takes out part of what a study looks for, and tables of two cohorts"
                " cannot be compared"
            )
        table = correct_table(table, lines, self.bias, in_cohort=self.fit_bias_on_cohort)
        trend, said = self._trend(table, lines)
        notes += said
        about: dict[str, Any] = {"bias": trend}
        if self.local_controls is not None:
            found = calibrate_sites(table, self.local_controls, lines, self.bias, info.calibration)
            table = found.table
            notes += (*found.notes, *notes_on_sites(found))
            about["site_calibration"] = in_the_sidecar(self.local_controls.name, found)
        quality = judge_quality(table)
        table = table.assign(qc_status=quality.status, qc_reasons=quality.reasons)
        flags = {"qc_flag": table["qc_status"] == "flag", "qc_fail": table["qc_status"] == "fail"}
        for name, rows in flags.items():
            table.loc[rows, "flags"] = [";".join(filter(None, (own, name))) for own in table["flags"][rows]]
        about["quality_figures"] = list(quality.figures)
        notes += quality.notes
        first = [name for name in (*SCHEMA, *SITE_COLUMNS) if name in table]
        return Finished(table[first + [c for c in table if c not in first]], tuple(notes), about)

    def _fitted(self, table: pd.DataFrame, scans: pd.DataFrame) -> dict[str, BiasLine]:
        chosen = select_scans(scans, self.controls, said="--controls")
        own = table[chosen & (table["status"] == "scored").to_numpy()]
        lines = fit_bias_lines(own, available(own))
        self._enough(len(own) if lines else 0, "scored scans")
        return lines

    def _enough(self, known: int, what: str) -> None:
        if known < FEWEST_PEOPLE:
            raise ScoringError(
                f"a bias line cannot be fitted on {known} {what}",
                where="--fit-bias-on-cohort" + (f" --controls {self.controls!r}" if self.controls else ""),
                expected=f"at least {FEWEST_PEOPLE} of known and different ages",
                hint="leave the option out: the model brings a line of its own",
            )

    def _trend(
        self, table: pd.DataFrame, lines: Mapping[str, BiasLine]
    ) -> tuple[dict[str, Any], list[str]]:
        """What was fitted and used, and the gap's correlation with age before and after."""
        names = set(line_names(table, lines)) - {""} if self.bias != "none" else set()
        r = {name: _correlation(table[name], table["age"]) for name in ("bag", "bag_corrected")}
        about = {
            "method": self.bias,
            "fit": IN_COHORT if self.fit_bias_on_cohort else "held-out training people",
            "controls": self.controls,
            "lines": {name: lines[name].model_dump() for name in lines if name in names},
            "r_with_age": r,
        }
        if self.bias == "none":
            return about, []
        notes = []
        if doubtful := doubtful_lines(table, lines):
            notes.append(f"bag_corrected may be years off: {doubtful}")
        after, before = r["bag_corrected"], np.nan if r["bag"] is None else r["bag"]
        if after is not None and abs(after) >= STILL_A_TREND:
            notes.append(
                "bag_corrected still correlates with age in these scans"
                f" (r = {number(after)}; bag: {number(before)}): keep age as a covariate"
            )
        return about, notes


def _correlation(gap: pd.Series, age: pd.Series) -> float | None:
    known = gap.notna() & age.notna()
    a, b = gap[known].to_numpy(dtype=float), age[known].to_numpy(dtype=float)
    if len(a) < FEWEST_PEOPLE or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
