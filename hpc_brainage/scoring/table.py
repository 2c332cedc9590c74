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

SCHEMA_VERSION = 1

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
    "bag": "brain-age gap: brain_age - age, years, uncorrected",
    "bag_corrected": "the gap without its trend in age, years",
    "bias_method": "how the trend was taken out",
    "bias_fit": "whose held-out predictions the trend was fitted on",
    "brain_age_smri_only": "years, from structural MRI alone",
    "brain_age_fmri_only": "years, from functional MRI alone",
    "brain_age_other_sex": "years, had the person been of the other sex",
    "brain_age_sd_members": "standard deviation over the members used, years; empty for one member",
    "members_used": "how many members were averaged",
    "held_out": "true: the model was trained on this person; only members that never saw them were asked",
    "has_smri": "structural MRI was there and used",
    "has_fmri": "functional MRI was there and used",
    "imputed_smri": "structural features that were missing and took the training median",
    "imputed_fmri": "functional features that were missing and took the training median",
    "age_in_training_range": "whether the age lies within the training ages; empty if it is unknown",
    "site_seen": "whether the model was trained on people of this site",
    "flags": "what to mind, separated by semicolons; empty if nothing",
    "model": "the model's name",
    "model_sha256": "hash of the bundle",
    "store_sha256": "hash of the store's content",
    "software": "hpc-brainage version",
}

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_table(table: pd.DataFrame, out: Path, about: dict[str, Any]) -> dict[str, Path]:
    """Write `OUT.tsv`, `OUT.parquet` and `OUT.json` (columns, sources and counts); returns their paths."""
    paths = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("tsv", "parquet", "json")}
    shown = table.copy()
    for column in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[column]) and shown[column].dtype != bool:
            shown[column] = [_spreadsheet_safe(value) for value in shown[column]]
    write_text(paths["tsv"], shown.to_csv(sep="\t", index=False, float_format="%.6g"))
    write_durably(paths["parquet"], lambda file: table.to_parquet(file, index=False))
    columns = {name: SCHEMA.get(name, "a column of the cohort, as in the store") for name in table.columns}
    write_json(paths["json"], {"schema_version": SCHEMA_VERSION, **about, "columns": columns})
    return paths


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Counts and the gap's mean and SD, raw and corrected, for the sidecar and the screen."""
    gap, corrected = table["bag"].dropna(), table["bag_corrected"].dropna()
    return {
        "scans": len(table),
        "status": {str(k): int(v) for k, v in table["status"].value_counts().sort_index().items()},
        "held_out": int((table["held_out"] & (table["status"] == "scored")).sum()),
        "reasons": dict(Counter(table["reason"][table["reason"] != ""]).most_common()),
        "flags": _flag_counts(table["flags"]),
        "mean_absolute_gap": float(gap.abs().mean()) if len(gap) else None,
        "mean_gap": float(gap.mean()) if len(gap) else None,
        "sd_gap": float(gap.std()) if len(gap) > 1 else None,
        "mean_corrected_gap": float(corrected.mean()) if len(corrected) else None,
        "sd_corrected_gap": float(corrected.std()) if len(corrected) > 1 else None,
    }


def _flag_counts(flags: pd.Series) -> dict[str, int]:
    counts = Counter(flag for text in flags for flag in str(text).split(";") if flag)
    return dict(sorted(counts.items()))


def _spreadsheet_safe(value: Any) -> Any:
    """A cell that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return "'" + value
    return value
