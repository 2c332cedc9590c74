"""`brainage report`: what a score table says, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


def report(
    scores: Annotated[
        Path, typer.Argument(help="The score table: OUT, or OUT.tsv, OUT.parquet or OUT.json.")
    ],
    group: Annotated[
        str | None,
        typer.Option(help="A column of the table whose groups are compared; by default diagnosis."),
    ] = None,
    atlas: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=IMAGE",
            help="An image of the regions of a modality's features, as in smri=aparc.nii.gz, with their"
            " names in a table beside it: contributions are drawn on a brain. May be repeated.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the page goes; by default OUT.html.")] = None,
) -> None:
    """Say on one page who was scored, how well, what differs between groups, and whether it can be used.

    The page is one HTML file that needs no network. It is made from OUT.parquet and OUT.json alone.
    """
    from hpc_brainage.cli.screen import notes, say
    from hpc_brainage.evaluation.score_findings import score_findings
    from hpc_brainage.files import write_text
    from hpc_brainage.reporting.score_report import score_report
    from hpc_brainage.reporting.told import Told
    from hpc_brainage.scoring.saved import read_contributions, read_scores

    read = read_scores(scores)
    contributions = read_contributions(scores.with_name(read.name))
    found = score_findings(read.table, read.about, group)
    maps = _brain_maps(read.name, contributions, atlas or [])
    told = Told(read.table, read.about, contributions, maps, **vars(found))
    page = out or scores.with_name(f"{read.name}.html")
    write_text(page, score_report(told))
    answer = {"yes": "yes", "care": "with care", "no": "no", "open": "it cannot be told"}[found.verdict]
    say(f"can this model's brain ages be used in this cohort: {answer}")
    notes(f"{row.check} {row.brief}" for row in found.tables["against"].itertuples())
    say(f"report  {page}")


def _brain_maps(
    name: str, contributions: pd.DataFrame | None, given: list[str]
) -> tuple[tuple[str, bytes], ...]:
    """What regions contribute, drawn on a brain by the atlases that were named; `name` is the scores'."""
    if not given:
        return ()
    from hpc_brainage.evaluation.contribution_regions import contributions_by_region
    from hpc_brainage.reporting.brain_maps import contribution_maps

    if contributions is None:
        raise UsageError(
            "there are no contributions to draw",
            where=f"--atlas {given[0]}",
            expected=f"{name}_contributions.tsv beside the table",
            hint="brainage score STORE --contributions COLUMN",
        )
    atlases = {}
    for text in given:
        role, _, image = text.partition("=")
        if not image:
            raise UsageError("an atlas is for a modality", where=f"--atlas {text}", expected="ROLE=IMAGE")
        atlases[role] = Path(image)
    return contribution_maps(contributions_by_region(contributions), atlases)
