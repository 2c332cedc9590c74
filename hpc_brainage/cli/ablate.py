"""`brainage ablate`: which parts of the model earn their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.evaluation.trial import HoldingOut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpc_brainage.evaluation.ablation import Effect


def ablate(
    recipe: Annotated[Path, typer.Argument(help="A run recipe (TOML): the full model.")],
    store: Annotated[str, typer.Argument(help="The store to train and test on.")],
    protocol: Annotated[
        HoldingOut,
        typer.Option(
            help="folds: everybody is tested, in folds of the same mix, as in a run; kfold: only people"
            " with all modalities are, in scikit-learn's shuffled KFold, as published comparisons do;"
            " sites: one is left out at a time."
        ),
    ] = HoldingOut.folds,
    seeds: Annotated[int, typer.Option(min=2, help="Seeds of each split and row.")] = 5,
    row: Annotated[
        list[str] | None, typer.Option(help="Only this row beside the full model. May be repeated.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUE", help="Change one setting of the recipe. May be repeated."
        ),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only these scans, as in \"dx == 'TC'\".")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables; by default ablations/STORE_RECIPE_PROTOCOL."),
    ] = None,
) -> None:
    """Train the model without each of its parts in turn, and say which of them the error misses.

    Every row is trained on the same splits with the same seeds. Started again after an interruption, it
    goes on with the first row that is not there.
    """
    from hpc_brainage.cli.screen import notes, progress, say, table
    from hpc_brainage.config import load_config
    from hpc_brainage.evaluation.ablate import ablate_config
    from hpc_brainage.evaluation.ablation import table_of, verdicts, write_ablation
    from hpc_brainage.evaluation.trial import Trial

    trial = Trial(store, load_config(recipe, set or []), protocol, seeds, where)
    folder = out or Path("ablations") / trial.folder_name(recipe)
    with progress("ablating") as show:
        found = ablate_config(trial, recipe.name, folder, show, only=row or (), told=notes)
    text = write_ablation(folder, found.effects, found.about, found.title)
    for view in dict.fromkeys(one.view for one in found.effects):
        content = table_of(found.effects, view).drop(columns=["about", "scans"])  # a screen is narrow
        first, *numbers = content.columns
        rows = content.itertuples(index=False, name=None)
        table(f"predicted from {view}", (first, *(f">{name}" for name in numbers)), rows)
    for line in verdicts(found.effects):
        say(line)
    say(f"report  {text}")
    say(f"figure  {_figure(folder, found.effects)}")


def _figure(folder: Path, measured: Sequence[Effect]) -> Path:
    from hpc_brainage.reporting.differences import Line, draw_differences

    panels = []
    for view in dict.fromkeys(one.view for one in measured):
        lines = [
            Line(
                one.row,
                one.difference,
                one.interval.low if one.interval else None,
                one.interval.high if one.interval else None,
                one.estimate.is_told_apart,
            )
            for one in measured
            if one.view == view and one.difference is not None
        ]
        if lines:
            panels.append((f"predicted from {view}", lines))
    axis = "MAE minus the full model's, years (95 % over people and seeds)"
    return draw_differences(folder / "ablation.png", panels, axis)
