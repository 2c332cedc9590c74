"""`brainage ablate`: which parts of the model earn their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.cli.evaluate import Protocol
from hpc_brainage.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpc_brainage.evaluation.ablation import Effect


def ablate(
    recipe: Annotated[Path, typer.Argument(help="A run recipe (TOML): the full model.")],
    store: Annotated[str, typer.Argument(help="The store to train and test on.")],
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="folds over people, kfold (scikit-learn's, over people with all modalities), or sites"
            " (one left out at a time)."
        ),
    ] = Protocol.folds,
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
    if protocol is Protocol.openbhb:
        raise UsageError(
            "OpenBHB's protocol is for a trained model",
            where="--protocol openbhb",
            hint="folds, kfold or sites",
        )
    from hpc_brainage.cli.screen import notes, progress, say, table
    from hpc_brainage.config import load_config
    from hpc_brainage.evaluation.ablation import (
        AVERAGE,
        FULL,
        changes_nothing,
        effects,
        grid,
        run_ablation,
        table_of,
        verdicts,
        write_ablation,
    )
    from hpc_brainage.evaluation.evaluate import splits_of
    from hpc_brainage.store.place import place_at
    from hpc_brainage.store.reader import Store
    from hpc_brainage.training.data import load_training_data

    config = load_config(recipe, set or [])
    data = load_training_data(Store.open(store), config, where)
    splits, said = splits_of(data, config, protocol.value)
    rows = grid(tuple(data.inputs))
    names = [one.name for one in rows if one.name != AVERAGE]
    for name in row or ():
        if name not in names:
            raise UsageError("unknown row", where=f"--row {name}", hint=nearest(name, names))
    same = [one.name for one in rows if changes_nothing(one, config)]
    if asked := [name for name in row or () if name in same]:
        raise UsageError(
            "this row changes nothing: the settings are so already",
            where=f"--row {asked[0]}",
            hint="leave it out, or change the recipe or --set",
        )
    rows = [one for one in rows if one.name not in same]
    if row:
        rows = [one for one in rows if one.name in (FULL, *row)]
    folder = out or Path("ablations") / (
        f"{place_at(store).name.removesuffix('.zarr')}_{recipe.stem}_{protocol}"
    )
    chosen = range(config.training.seed, config.training.seed + seeds)
    notes(data.notes)
    if same and not row:
        notes([f"left out, for these settings are so already: {', '.join(same)}"])
    with progress("ablating") as show:
        found = run_ablation(data, config, splits, tuple(chosen), rows, folder, show)
    measured = effects(found, rows, data, splits)
    about = {
        "recipe": recipe.name,
        "config": config.model_dump(mode="json"),
        "protocol": said,
        "seeds": list(chosen),
        "where": where,
        "store_sha256": data.store.content_sha256,
    }
    networks = config.training.ensemble
    of_seeds = f"{seeds} seeds" + (f" of {networks} networks each" if networks > 1 else "")
    text = write_ablation(folder, measured, about, f"Ablation of {recipe.name}: {said}, {of_seeds}")
    for view in dict.fromkeys(one.view for one in measured):
        content = table_of(measured, view)
        columns = (name if name in ("row", "about") else f">{name}" for name in content.columns)
        table(f"predicted from {view}", tuple(columns), content.itertuples(index=False, name=None))
    for line in verdicts(measured):
        say(line)
    say(f"report  {text}")
    say(f"figure  {_figure(folder, measured)}")


def _figure(folder: Path, measured: Sequence[Effect]) -> Path:
    from hpc_brainage.evaluation.ablation import SIGNIFICANT
    from hpc_brainage.reporting.differences import Line, draw_differences

    panels = []
    for view in dict.fromkeys(one.view for one in measured):
        lines = [
            Line(
                one.row,
                one.difference,
                one.interval.low if one.interval else None,
                one.interval.high if one.interval else None,
                one.p is not None and one.p < SIGNIFICANT,
            )
            for one in measured
            if one.view == view and one.difference is not None
        ]
        if lines:
            panels.append((f"predicted from {view}", lines))
    axis = "MAE minus the full model's, years (95 % over people)"
    return draw_differences(folder / "ablation.png", panels, axis)
