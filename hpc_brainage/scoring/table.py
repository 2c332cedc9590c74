"""The score table: one row for every scan, scored or not, and what each column means.

`SCHEMA` is the contract, `docs/score-table.md` its description. A number that was not computed is NaN
(empty in the TSV), never 0.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from hpc_brainage.files import write_durably, write_json, write_text
from hpc_brainage.scoring.flags import FLAGS

SCHEMA_VERSION = 3

SCHEMA: dict[str, str] = {
    "participant_id": "who, as in the store",
    "session_id": "which visit; empty if the cohort has one",
    "run": "which repetition; empty if there is one",
    "age": "years at the scan; empty if unknown",
    "sex": "F, M or U (unknown)",
    "site": "as in the store",
    "split": "as in the store",
    "diagnosis": "as in the store",
    "status": "scored; missing: none of the model's modalities is there; failed: see reason",
    "reason": "why a scan was not scored",
    "brain_age": "predicted age, years, uncorrected; mean over the members used",
    "brain_age_sd_aleatoric": "standard deviation that the model predicts for the age of a person with such"
    " data, years; empty unless it was trained with age_form nll or soft",
    "brain_age_sd_epistemic": "standard deviation of brain_age over the members used and over draws of"
    " their codes, years; empty for one member",
    "pi90_lo": "lower end of the 90 % conformal interval of the age, years",
    "pi90_hi": "upper end of the 90 % conformal interval of the age, years",
    "bag": "brain-age gap: brain_age - age, years, uncorrected",
    "bag_corrected": "the gap without its trend in age, years",
    "bias_method": "how the trend was taken out",
    "bias_fit": "whose predictions the trend was fitted on; in_cohort: those of this very table",
    "bag_z": "z of the raw gap among held-out controls of the same age and sex",
    "bag_centile": "centile of bag_z if z is normal, 0 to 100",
    "p_accelerated": "one-sided conformal p of an older-looking brain: share of held-out controls with this"
    " bag_z or more, counting the scan itself, 0 to 1",
    "brain_age_smri_only": "years, from structural MRI alone",
    "brain_age_fmri_only": "years, from functional MRI alone",
    "modality_delta": "brain_age_smri_only - brain_age_fmri_only, years",
    "brain_age_other_sex": "years, had the person been of the other sex",
    "members_used": "how many members were averaged",
    "in_training": "true: a person of the model's training; only members that never saw them were asked",
    "has_smri": "structural MRI was there and used",
    "has_fmri": "functional MRI was there and used",
    "imputed_smri": "structural features that were missing and took the training median",
    "imputed_fmri": "functional features that were missing and took the training median",
    "recon_z_smri": "log error of rebuilding structural MRI from its code, z among held-out people",
    "recon_z_fmri": "log error of rebuilding functional MRI from its code, z among held-out people",
    "mahalanobis": "Mahalanobis distance of the codes from the training people's, per dimension; about 1 is"
    " usual",
    "out_of_range_smri": "structural features below or above all training people's",
    "out_of_range_fmri": "functional features below or above all training people's",
    "age_in_training_range": "whether the age lies within the training ages; empty if it is unknown",
    "site_seen": "whether the model was trained on people of this site",
    "qc_status": "image quality: pass, flag or fail; empty if the cohort brings no measures of it",
    "qc_reasons": "which measures of quality are bad, separated by semicolons",
    "flags": "what to mind, separated by semicolons; empty if nothing",
    "model": "the model's name",
    "model_sha256": "hash of the bundle",
    "store_sha256": "hash of the store's content",
    "software": "hpc-brainage version",
}

SITE_COLUMNS: dict[str, str] = {
    "site_calibration": "from how many local controls, or why not",
    "site_offset": "what the site adds to a gap, years, from local controls, shrunk",
    "site_scale": "spread of the site's gaps against the training's, shrunk",
    "bag_site_calibrated": "(bag_corrected - site_offset) / site_scale, years",
    "bag_z_site_calibrated": "bag_z, had the site not shifted and spread the gaps",
    "p_accelerated_site_calibrated": "p_accelerated of that z",
    "pi90_lo_site_calibrated": "lower end of the interval, moved by the site's offset and as wide as it"
    " takes to hold nine in ten of the site's controls, years",
    "pi90_hi_site_calibrated": "upper end of that interval, years",
}
"""Columns after those of `SCHEMA`, where sites were calibrated with local controls."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_table(table: pd.DataFrame, out: Path, about: dict[str, Any]) -> dict[str, Path]:
    """Write `OUT.tsv`, `OUT.parquet` and `OUT.json` (columns, sources and counts); returns their paths."""
    paths = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("tsv", "parquet", "json")}
    shown = table.copy()
    for column in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[column]) and shown[column].dtype != bool:
            shown[column] = [spreadsheet_safe(value) for value in shown[column]]
    write_text(paths["tsv"], shown.to_csv(sep="\t", index=False, float_format="%.6g"))
    write_durably(paths["parquet"], lambda file: table.to_parquet(file, index=False))
    known = SCHEMA | SITE_COLUMNS
    columns = {name: known.get(name, "a column of the cohort, as in the store") for name in table.columns}
    said = {"schema_version": SCHEMA_VERSION, **about, "columns": columns, "flag_meanings": FLAGS}
    write_json(paths["json"], said)
    return paths


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


def _coverage(table: pd.DataFrame) -> float | None:
    """How many of the scans with an interval and an age have the age in the interval."""
    known = table[["age", "pi90_lo", "pi90_hi"]].dropna()
    held = (known["age"] >= known["pi90_lo"]) & (known["age"] <= known["pi90_hi"])
    return float(held.mean()) if len(known) else None


def _flag_counts(flags: pd.Series) -> dict[str, int]:
    counts = Counter(flag for text in flags for flag in str(text).split(";") if flag)
    return dict(sorted(counts.items()))


def spreadsheet_safe(value: Any) -> Any:
    """A cell that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return "'" + value
    return value
