"""An evaluation as tables, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.evaluation.comparison import Evaluation, Measured
from hpc_brainage.evaluation.intervals import DRAWS, Interval
from hpc_brainage.evaluation.judgement import Estimate
from hpc_brainage.evaluation.openbhb import ChallengeResult
from hpc_brainage.evaluation.tables import Table, markdown_table, probability_text
from hpc_brainage.files import write_json, write_text

NOTE = (
    "Errors of held-out, uncorrected predictions, in years, over scans. In brackets: 95 % percentile"
    f" intervals of {DRAWS:,} bootstrap draws of whole people, and after the bar of whole sites; of a mean"
    " over seeds, of other seeds, too. R² is against the mean age of these very people. A difference is MAE"
    " of the model minus MAE of the other on"
    " the scans that both predict, below zero where the model is better; p is of Nadeau and Bengio's"
    " corrected t test over the splits, of which each counts the same, and is not corrected for the number"
    " of comparisons."
)


def summary(found: Evaluation) -> Table:
    """Everybody's errors beside the difference of the model, or of the ensemble of all its networks, from
    them: what a screen has room for."""
    model = found.models[-1]
    of = {one.other: one for one in found.differences if one.model == model}
    rows = []
    for one in found.everyone:
        row = {
            "predictor": one.predictor,
            "scans": str(one.scans),
            "MAE": _number(one.mae.value),
            "R²": _number(one.r2.value),
            f"{'ensemble' if len(found.models) > 1 else model} minus this": "",
            "p": "",
        }
        if (difference := of.get(one.predictor)) is not None:
            row[list(row)[-2]] = estimate(difference.mae, "+")
            row["p"] = "-" if difference.test is None else probability_text(difference.test.p)
        rows.append(row)
    sites = " | over sites" if any(one.mae.sites for one in found.differences) else ""
    title = f"errors in years; of differences in MAE [95 % over people{sites}]"
    return Table(title, pd.DataFrame(rows))


def tables(found: Evaluation) -> list[Table]:
    """Everybody's errors, the differences, and the errors by group."""
    others = dict.fromkeys(d.other for d in found.differences)
    shown = _shown_in_groups(found)
    made = [
        Table("everybody", pd.DataFrame([_errors(one) for one in found.everyone])),
        Table("differences", pd.DataFrame([_difference(found, other) for other in others])),
    ]
    for division, parts in found.groups.items():
        rows = [{"group": name, **_by_predictor(measured, shown)} for name, measured in parts.items()]
        made.append(Table(f"MAE by {division}", pd.DataFrame(rows).fillna("-")))
    return made


def heading(found: Evaluation) -> str:
    """Who was tested, and how, in one line."""
    seeds = f", {found.seeds} seeds" if found.seeds > 1 else ""
    few = f"; {found.not_predicted} scans have too few features to be predicted"
    left = few if found.not_predicted else ""
    return (
        f"{found.protocol}: {found.scans} scans of {found.people} people, {_sites(found.sites)},"
        f" {found.splits} splits{seeds}{left}"
    )


def _sites(sites: int) -> str:
    if not sites:
        return "sites unknown"
    return f"{sites} site{'s' if sites > 1 else ''}"


def as_markdown(found: Evaluation, title: str) -> str:
    """The whole report."""
    parts = [f"# {title}", heading(found), "\n".join(f"- {line}" for line in found.verdicts), NOTE]
    for table in tables(found):
        parts += [f"## {table.title}", markdown_table(table.content)]
    return "\n\n".join(parts) + "\n"


def write_report(folder: Path, found: Evaluation, title: str, about: dict[str, Any]) -> tuple[Path, Path]:
    """Write `evaluation.json` and `evaluation.md` into the folder; `about` says what was evaluated."""
    record, text = folder / "evaluation.json", folder / "evaluation.md"
    write_json(record, {"about": about, "draws": DRAWS, **_plain(asdict(found))})
    write_text(text, as_markdown(found, title))
    return record, text


def estimate(one: Estimate, sign: str = "") -> str:
    """A number and its intervals: "2.41 [2.25, 2.58 | 2.02, 2.83]"."""
    if one.value is None:
        return "-"
    intervals = [_interval(i, sign) for i in one.intervals.values()]
    return _number(one.value, sign) + (f" [{' | '.join(intervals)}]" if intervals else "")


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"


def _interval(one: Interval, sign: str) -> str:
    return f"{one.low:{sign}.2f}, {one.high:{sign}.2f}"


def _errors(one: Measured) -> dict[str, str]:
    return {
        "predictor": one.predictor,
        "scans": str(one.scans),
        "MAE": estimate(one.mae),
        "RMSE": estimate(one.rmse),
        "R²": estimate(one.r2),
        "r": estimate(one.r),
    }


def _difference(found: Evaluation, other: str) -> dict[str, str]:
    row = {"against": other}
    for one in found.differences:
        if one.other != other:
            continue
        row["scans"] = str(one.scans)
        row[one.model] = estimate(one.mae, "+")
        row["p" if len(found.models) == 1 else f"p, {one.model}"] = (
            "-" if one.test is None else probability_text(one.test.p)
        )
    return row


def _shown_in_groups(found: Evaluation) -> list[str]:
    """The model, a constant, the best ridge and the best of all others that predict everybody."""
    whole = [one for one in found.everyone if one.scans == found.scans and one.mae.value is not None]
    rest = [one for one in whole if one.predictor not in (*found.models, *found.constants)]
    ordered = [one.predictor for one in sorted(rest, key=lambda one: one.mae.value or 0.0)]
    ridges = [name for name in ordered if name.startswith("ridge")]
    return list(dict.fromkeys([*found.models, *found.constants[:1], *ridges[:1], *ordered[:1]]))


def _by_predictor(measured: Sequence[Measured], shown: Sequence[str]) -> dict[str, str]:
    of = {one.predictor: one for one in measured}
    row = {"scans": str(max(one.scans for one in measured))} if measured else {}
    return row | {name: estimate(of[name].mae) for name in shown if name in of}


def _plain(value: Any) -> Any:
    """What JSON can say: an infinite statistic has no number there."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_challenge(folder: Path, found: Sequence[ChallengeResult]) -> tuple[Path, Path, pd.DataFrame]:
    """Write `openbhb.json` and `openbhb.md`; returns their paths and the table, best score first."""
    ordered = sorted(found, key=lambda one: one.score)
    rows = [
        {
            "codes": one.name,
            "MAE internal": f"{one.internal_mae:.3f}",
            "MAE external": f"{one.external_mae:.3f}",
            "site accuracy": f"{one.site_accuracy:.1%}",
            "score": f"{one.score:.3f}",
            "source": one.source,
        }
        for one in ordered
    ]
    record, text, content = folder / "openbhb.json", folder / "openbhb.md", pd.DataFrame(rows)
    write_json(record, [asdict(one) for one in ordered])
    write_text(text, f"# OpenBHB's protocol\n\n{markdown_table(content)}\n")
    return record, text, content
