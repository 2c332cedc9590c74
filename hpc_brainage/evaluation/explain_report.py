"""What a run has learned, as Markdown, as tables, and as a few lines for a screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.evaluation.codes import CodeReport
from hpc_brainage.evaluation.explain import Explained, Judged
from hpc_brainage.evaluation.sex_audit import SexAudit
from hpc_brainage.evaluation.tables import Table, markdown_table
from hpc_brainage.files import write_text


def tables_of(found: Explained) -> dict[str, pd.DataFrame]:
    """All numbers, as tables by the name of their file; those without a row are left out."""
    drives = found.importance
    tables = {
        "codes": found.codes.probes,
        "spread": found.codes.spread,
        "modalities": drives.roles,
        "regions": drives.regions,
        "networks": drives.networks,
        "features": drives.features,
        "agreement": drives.stability,
    }
    if found.rebuilt is not None:
        tables["rebuilding"] = found.rebuilt
    if found.sex is not None:
        audit = found.sex
        tables |= {"sex_error": audit.error, "sex_difference": audit.difference}
        tables |= {"sex_flip": audit.flip, "sex_unknown": audit.unknown}
    return {name: table for name, table in tables.items() if len(table)}


def write_explanation(folder: Path, judged: Judged, found: Explained) -> list[Path]:
    """Write `codes.md`, `sex.md` and `importance.md`, and every table as TSV under `tables/`.

    Returns the paths of the three.
    """
    for name, table in tables_of(found).items():
        content = table.to_csv(sep="\t", index=False, float_format="%.6g")
        write_text(folder / "tables" / f"{name}.tsv", content)
    texts = {
        "codes": (f"What the codes of {judged.name} know", _codes_text(found)),
        "sex": (f"What sex does in {judged.name}", _sex_text(found)),
        "importance": (f"What drives the ages of {judged.name}", _importance_text(judged, found)),
    }
    paths = []
    for name, (title, parts) in texts.items():
        lines = [f"# {title}", judged.heading, *parts]
        if found.notes:
            lines += ["## Notes", "\n".join(f"- {note}" for note in found.notes)]
        paths.append(folder / f"{name}.md")
        write_text(paths[-1], "\n\n".join(lines) + "\n")
    return paths


def _codes_text(found: Explained) -> list[str]:
    parts = [
        "## What can be read out of a code",
        "A linear probe is fitted on a member's training people and tested on its held-out people."
        " `chance` and `chance_best` are the mean and the best of the same probe fitted on shuffled people,"
        " `member_sd` the standard deviation over the folds' members: smaller differences mean nothing."
        " All rows are of people with all modalities."
        " `all` is every code side by side, `components` is what the encoders were given. A member knows"
        " the ages of its training people better than others', so values for age are lower bounds.",
        markdown_table(found.codes.probes, 2),
        "## How much of a code is in use",
        "Units whose mean varies between people by more than 0.01 are active. `variance` is of a unit's"
        " mean, `sigma` the spread with which training draws it; empty where it takes the mean.",
        markdown_table(found.codes.spread),
    ]
    if found.rebuilt is not None:
        parts += [
            "## What is rebuilt",
            "Shares of the variance of what is rebuilt that are missed: 0 is perfect, 1 is what the"
            " training mean reaches. `own`: from both codes of the modality; `cross`: with the other one's"
            " shared code; `translated`: from that code alone, as an absent modality is imputed;"
            " `stranger`: with the code of somebody else. `ridge_r2` is a ridge regression from the other"
            " modality's components, beside the model's `imputed_r2`.",
            markdown_table(found.rebuilt, 2),
        ]
    return parts


def _sex_text(found: Explained) -> list[str]:
    if found.sex is None:
        return []
    return ["Years; 95 % intervals over people (`low`, `high`).", found.sex.markdown()]


def _importance_text(judged: Judged, found: Explained) -> list[str]:
    drives = found.importance
    parts = [
        "Integrated gradients against the mean training person of the same sex: `mean_abs` is how many"
        " years a feature adds to a held-out person's age or takes from it, on average, with a 95 %"
        " interval over people (`low`, `high`); `mean` is the average with its sign. Features that say the"
        " same share the credit, so a low place does not mean that a region does not age. These are the"
        " model's reasons, and no causes.",
        f"What a person's features add up to misses the person's age by at most {drives.largest_miss:.3g}"
        " years.",
    ]
    if drawn := [role for role in drives.maps if role in judged.affines]:
        parts.append(f"Of {' and '.join(drawn)} every voxel has its years: see `maps/` and `figures/`.")
    return [*parts, *filter(None, [drives.markdown()])]


def headlines(found: Explained, top: int = 5) -> list[Table]:
    """The main numbers, small enough for a screen; `top` regions of each modality."""
    made = [
        Table(
            "read out of the codes of unseen people ± SD over folds (by chance)",
            _codes_headline(found.codes),
        )
    ]
    if found.rebuilt is not None:
        names = ["rebuilt", "own", "cross", "translated", "imputed_r2", "ridge_r2"]
        title = "missed share of the variance when a modality is rebuilt, and R² when it is imputed"
        made.append(Table(title, _two_decimals(found.rebuilt[names])))
    if found.sex is not None:
        made.append(Table("errors by sex, years", _sex_headline(found.sex)))
    drives = found.importance
    for title, table in (("modalities", drives.roles), ("regions", drives.regions)):
        if len(table):
            shown = table.groupby("role", sort=False).head(top)
            made.append(Table(f"years that {title} add or take", _years_headline(shown)))
    return [one for one in made if len(one.content)]


def _codes_headline(codes: CodeReport) -> pd.DataFrame:
    measures = {
        ("age", "R2"): "age, R²",
        ("sex", "AUC"): "sex, AUC",
        ("site", "balanced accuracy"): "site, accuracy",
    }
    rows: dict[str, dict[str, str]] = {}
    for one in codes.probes.to_dict("records"):
        column = measures.get((one["target"], one["score"]))
        if one["target"] not in ("age", "sex", "site"):
            column = "the same code of the other modality, R²"
        if column is not None:
            over_folds = "" if np.isnan(one["member_sd"]) else f" ± {one['member_sd']:.2f}"
            cell = f"{one['value']:.2f}{over_folds} ({one['chance']:.2f})"
            rows.setdefault(one["code"], {})[column] = cell
    for one in codes.spread.to_dict("records"):
        if one["code"] in rows:
            rows[one["code"]]["active"] = f"{one['active']:.0f} of {one['units']:.0f}"
    return pd.DataFrame([{"code": code, **cells} for code, cells in rows.items()]).fillna("")


def _sex_headline(audit: SexAudit) -> pd.DataFrame:
    everyone = audit.flip[audit.flip["age"] == "all"].set_index("sex")
    flip, moved = everyone["mean"], everyone["mean_abs"]
    unknown = audit.unknown.set_index("sex")["unknown"]
    rows = [
        {
            "sex": one["sex"],
            "scans": str(one["n"]),
            "MAE": f"{one['mae']:.2f} [{one['mae_low']:.2f}, {one['mae_high']:.2f}]",
            "mean gap": f"{one['gap']:+.2f} [{one['gap_low']:+.2f}, {one['gap_high']:+.2f}]",
            "moved by the other sex": f"{moved[one['sex']]:.2f} (mean {flip[one['sex']]:+.2f})",
            "MAE, sex unknown": f"{unknown[one['sex']]:.2f}",
        }
        for one in audit.error.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _years_headline(table: pd.DataFrame) -> pd.DataFrame:
    found = table[["role", *(["region"] if "region" in table else [])]].copy()
    found["years"] = [
        f"{value:.2f} [{low:.2f}, {high:.2f}]"
        for value, low, high in zip(table["mean_abs"], table["low"], table["high"], strict=True)
    ]
    return found


def _two_decimals(table: pd.DataFrame) -> pd.DataFrame:
    return table.map(lambda value: f"{value:.2f}" if isinstance(value, float) else str(value))
