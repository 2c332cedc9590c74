"""The score table: one row for every scan, scored or not, and what each column means.

`SCHEMA` is the contract, `docs/score-table.md` its description. A number that was not computed is NaN
(empty in the TSV), never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from hpc_brainage.files import write_durably, write_json, write_text
from hpc_brainage.scoring.flags import FLAGS

SCHEMA_VERSION = 3

Kind = Literal["text", "number", "truth"]
"""What a column holds. Where there is nothing, a text is empty, and a number or a truth is unknown."""


class Column(NamedTuple):
    """What a column holds, and what it means."""

    kind: Kind
    meaning: str


SCHEMA: dict[str, Column] = {
    "participant_id": Column("text", "who, as in the store"),
    "session_id": Column("text", "which visit; empty if the cohort has one"),
    "run": Column("text", "which repetition; empty if there is one"),
    "age": Column("number", "years at the scan; empty if unknown"),
    "sex": Column("text", "F, M or U (unknown)"),
    "site": Column("text", "as in the store"),
    "split": Column("text", "as in the store"),
    "diagnosis": Column("text", "as in the store"),
    "status": Column(
        "text",
        "scored; missing: none of the model's modalities is there; failed: see reason",
    ),
    "reason": Column("text", "why a scan was not scored"),
    "brain_age": Column("number", "predicted age, years, uncorrected; mean over the members used"),
    "brain_age_sd_aleatoric": Column(
        "number",
        "standard deviation that the model predicts for the age of a person with such data, years; empty"
        " unless it was trained with age_form nll or soft",
    ),
    "brain_age_sd_epistemic": Column(
        "number",
        "standard deviation of brain_age over the members used and over draws of their codes, years;"
        " empty for one member",
    ),
    "pi90_lo": Column("number", "lower end of the 90 % conformal interval of the age, years"),
    "pi90_hi": Column("number", "upper end of the 90 % conformal interval of the age, years"),
    "bag": Column("number", "brain-age gap: brain_age - age, years, uncorrected"),
    "bag_corrected": Column("number", "the gap without its trend in age, years"),
    "bias_method": Column("text", "how the trend was taken out"),
    "bias_fit": Column(
        "text",
        "which predictions the trend was fitted on, and how many; in_cohort: those of this very table",
    ),
    "bag_z": Column("number", "z of the raw gap among held-out controls of the same age and sex"),
    "bag_centile": Column("number", "centile of bag_z if z is normal, 0 to 100"),
    "p_accelerated": Column(
        "number",
        "one-sided conformal p of an older-looking brain: share of held-out controls with this bag_z or"
        " more, counting the scan itself, 0 to 1",
    ),
    "brain_age_smri_only": Column("number", "years, from structural MRI alone"),
    "brain_age_fmri_only": Column("number", "years, from functional MRI alone"),
    "modality_delta": Column("number", "brain_age_smri_only - brain_age_fmri_only, years"),
    "brain_age_other_sex": Column("number", "years, had the person been of the other sex"),
    "members_used": Column("number", "how many members were averaged"),
    "in_training": Column(
        "truth",
        "true: a person of the model's training; only members that never saw them were asked",
    ),
    "has_smri": Column("truth", "structural MRI was there and used"),
    "has_fmri": Column("truth", "functional MRI was there and used"),
    "imputed_smri": Column("number", "structural features that were missing and took the training median"),
    "imputed_fmri": Column("number", "functional features that were missing and took the training median"),
    "recon_z_smri": Column(
        "number",
        "log error of rebuilding structural MRI from its code, z among held-out people",
    ),
    "recon_z_fmri": Column(
        "number",
        "log error of rebuilding functional MRI from its code, z among held-out people",
    ),
    "mahalanobis": Column(
        "number",
        "Mahalanobis distance of the codes from the training people's, per dimension; about 1 is usual",
    ),
    "out_of_range_smri": Column("number", "structural features below or above all training people's"),
    "out_of_range_fmri": Column("number", "functional features below or above all training people's"),
    "age_in_training_range": Column(
        "truth",
        "whether the age lies within the training ages; empty if it is unknown",
    ),
    "site_seen": Column("truth", "whether the model was trained on people of this site"),
    "qc_status": Column(
        "text",
        "image quality: pass, flag or fail; empty if the cohort brings no measures of it",
    ),
    "qc_reasons": Column("text", "which measures of quality are bad, separated by semicolons"),
    "flags": Column("text", "what to mind, separated by semicolons; empty if nothing"),
    "model": Column("text", "the model's name"),
    "model_sha256": Column("text", "hash of the bundle"),
    "store_sha256": Column("text", "hash of the store's content"),
    "software": Column("text", "hpc-brainage version"),
}

SITE_COLUMNS: dict[str, Column] = {
    "site_calibration": Column(
        "text", "from how many local controls of which modalities, around what; or why not"
    ),
    "site_offset": Column("number", "what the site adds to a gap, years, from local controls, shrunk"),
    "site_scale": Column("number", "spread of the site's gaps against the training's, shrunk"),
    "bag_site_calibrated": Column(
        "number", "the gap around the norms, or else bag_corrected, as if the site added nothing, years"
    ),
    "bag_z_site_calibrated": Column("number", "bag_z, had the site not shifted and spread the gaps"),
    "p_accelerated_site_calibrated": Column("number", "p_accelerated of that z"),
    "pi90_lo_site_calibrated": Column(
        "number",
        "lower end of the interval, moved by the site's offset and as wide as it takes to hold nine in"
        " ten of the site's controls, years",
    ),
    "pi90_hi_site_calibrated": Column("number", "upper end of that interval, years"),
}
"""Columns after those of `SCHEMA`, where sites were calibrated with local controls."""

COLUMNS = SCHEMA | SITE_COLUMNS
"""All columns that are not the cohort's."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_table(table: pd.DataFrame, out: Path, about: dict[str, Any]) -> dict[str, Path]:
    """Write `OUT.tsv`, `OUT.parquet` and `OUT.json` (columns, sources and counts); returns their paths.

    A TSV does not tell the text 007 from the number 7, so the sidecar says what each column holds.
    """
    paths = table_paths(out)
    shown = table.copy()
    for column in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[column]) and shown[column].dtype != bool:
            shown[column] = [spreadsheet_safe(value) for value in shown[column]]
    write_text(paths["tsv"], shown.to_csv(sep="\t", index=False, float_format="%.6g"))
    write_durably(paths["parquet"], lambda file: table.to_parquet(file, index=False))
    said = {
        "schema_version": SCHEMA_VERSION,
        **about,
        "columns": {
            name: COLUMNS[name].meaning if name in COLUMNS else "a column of the cohort, as in the store"
            for name in table.columns
        },
        "column_kinds": {name: _kind(table[name]) for name in table.columns},
        "flag_meanings": FLAGS,
    }
    write_json(paths["json"], said)
    return paths


def table_paths(out: Path) -> dict[str, Path]:
    """Where a score table and its sidecar are, by the files' kinds."""
    return {kind: out.with_name(f"{out.name}.{kind}") for kind in ("tsv", "parquet", "json")}


def cohort_names(columns: Sequence[str]) -> dict[str, str]:
    """How further columns of a cohort are called in the table, by their own names.

    They keep their names, but for those that are called like a column of `COLUMNS`: such a NAME becomes
    `cohort_NAME`, or `cohort_NAME_2` and so on where the cohort has a column of that name, too.
    """
    taken = {*COLUMNS, *columns}
    names = {}
    for own in columns:
        name, number = own, 1
        if own in COLUMNS:
            name = f"cohort_{own}"
            while name in taken:
                number += 1
                name = f"cohort_{own}_{number}"
            taken.add(name)
        names[own] = name
    return names


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column of a score table as float64 (rows,); NaN where it is empty."""
    return table[column].to_numpy(dtype=float, na_value=np.nan)


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Counts and the gap's mean and SD, raw and corrected, for the sidecar and the screen."""
    gap, corrected = table["bag"].dropna(), table["bag_corrected"].dropna()
    return {
        "scans": len(table),
        "status": {str(k): int(v) for k, v in table["status"].value_counts().sort_index().items()},
        "in_training": int((table["in_training"] & (table["status"] == "scored")).sum()),
        "reasons": dict(Counter(table["reason"][table["reason"] != ""]).most_common()),
        "flags": _flag_counts(table["flags"]),
        "interval_coverage": _coverage(table),
        "mean_absolute_gap": float(gap.abs().mean()) if len(gap) else None,
        "mean_gap": float(gap.mean()) if len(gap) else None,
        "sd_gap": float(gap.std()) if len(gap) > 1 else None,
        "mean_corrected_gap": float(corrected.mean()) if len(corrected) else None,
        "sd_corrected_gap": float(corrected.std()) if len(corrected) > 1 else None,
    }


def _kind(column: pd.Series) -> Kind:
    if str(column.name) in COLUMNS:
        return COLUMNS[str(column.name)].kind
    if pd.api.types.is_bool_dtype(column):
        return "truth"
    return "number" if pd.api.types.is_numeric_dtype(column) else "text"


def _coverage(table: pd.DataFrame) -> float | None:
    """How many of the scans with an interval and an age have the age in the interval."""
    known = table[["age", "pi90_lo", "pi90_hi"]].dropna()
    held = (known["age"] >= known["pi90_lo"]) & (known["age"] <= known["pi90_hi"])
    return float(held.mean()) if len(known) else None


def _flag_counts(flags: pd.Series) -> dict[str, int]:
    counts = Counter(flag for text in flags for flag in str(text).split(";") if flag)
    return dict(sorted(counts.items()))


def spreadsheet_safe(value: Any) -> Any:
    """A cell that a spreadsheet would run as a formula gets an apostrophe before it.

    So does such a cell with apostrophes before it: `without_escape` gives both back as they were.
    """
    if isinstance(value, str) and value.lstrip("'").startswith(_FORMULA_STARTS):
        return "'" + value
    return value


def without_escape(value: Any) -> Any:
    """The cell that `spreadsheet_safe` was given."""
    if isinstance(value, str) and value.startswith("'") and value.lstrip("'").startswith(_FORMULA_STARTS):
        return value[1:]
    return value
