"""`brainage compare`: two score tables against each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hpc_brainage.evaluation.compare_scores import Compared

_NAMES_SHOWN = 3


def compare(
    scores: Annotated[Path, typer.Argument(help="A score table of `brainage score`.")],
    other: Annotated[
        Path | None,
        typer.Argument(help="Another; without it, the first two scans of each person in the one table."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the numbers go, without suffix; by default comparisons/SCORES_OTHER."),
    ] = None,
) -> None:
    """Say how well a model repeats, or how far two models agree.

    Two scans of the same people by one model: intraclass correlations, error of measurement and smallest
    detectable change. The same scans by two models: agreement, and which errs less. Which of the two it
    is, is told from the tables. Writes OUT.tsv and OUT.json.
    """
    from hpc_brainage.cli.screen import notes, say
    from hpc_brainage.evaluation.compare_scores import compare_scores, write_comparison
    from hpc_brainage.scoring.saved import read_scores

    first = read_scores(scores)
    second = None if other is None else read_scores(other)
    if second is not None and second.name == first.name:
        first, second = replace(first, name=str(scores)), replace(second, name=str(other))
    compared = compare_scores(first, second)
    names = dict.fromkeys(Path(one["name"]).name for one in compared.sources)
    destination = out or Path("comparisons") / "_".join(names)
    if destination.suffix in (".tsv", ".json"):
        destination = destination.with_suffix("")
    paths = write_comparison(compared, destination)
    article = "the " if compared.kind == "same scans" else ""
    say(f"{compared.pairs} pairs of {article}{compared.kind}: {compared.why}")
    for word, source in zip(("first", "second"), compared.sources, strict=True):
        say(f"  · {word}: {source['name']}, model {source['model']}")
    _show(compared)
    notes(compared.notes)
    for reason, scans in compared.left_out.items():
        some = ", ".join(scans[:_NAMES_SHOWN]) + (", ..." if len(scans) > _NAMES_SHOWN else "")
        say(f"  · not compared: {len(scans)} {reason}: {some}")
    for kind, path in paths.items():
        say(f"{kind:<8} {path}")


def _show(compared: Compared) -> None:
    from hpc_brainage.cli.screen import table

    rows = compared.measures.to_dict("records")
    if compared.kind == "repeated scans":
        table(
            "test and retest: correlations with their 95 % intervals; years",
            ("measure", ">people", ">ICC(2,1)", ">ICC(3,1)", ">SEM", ">detectable", ">second - first",
             ">95 % limits"),
            [
                (r["measure"], r["people"], _with_ends(r, "icc_agreement"),
                 _with_ends(r, "icc_consistency"), _number(r["sem"]),
                 _number(r["smallest_detectable_change"]),
                 _with_ends(r, "mean_difference", sign=True), _ends(r, "limits", sign=True))
                for r in rows
            ],
        )  # fmt: skip
        return
    table(
        "two models on the same scans; years, differences first minus second",
        ("measure", ">scans", ">apart", ">difference", ">95 % limits", ">r", ">CCC", ">MAE first",
         ">MAE second"),
        [
            (r["measure"], r["scans"], _number(r["mean_absolute_difference"]),
             _with_ends(r, "mean_difference", sign=True, of="mean_difference_people"),
             _ends(r, "limits", sign=True),
             *(_number(r[name]) for name in ("r", "ccc", "mae_first", "mae_second")))
            for r in rows
        ],
    )  # fmt: skip


def _with_ends(row: dict[Any, Any], name: str, *, sign: bool = False, of: str | None = None) -> str:
    ends = _ends(row, of or name, sign=sign)
    return _number(row[name], sign=sign) + (f" ({ends})" if ends else "")


def _ends(row: dict[Any, Any], name: str, *, sign: bool = False) -> str:
    from hpc_brainage.numerals import interval

    return interval(row[f"{name}_low"], row[f"{name}_high"], sign=sign)


def _number(value: float, *, sign: bool = False) -> str:
    from hpc_brainage.cli.screen import years

    return "" if value != value else years(value, sign=sign)
