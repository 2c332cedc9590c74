"""`brainage evaluate`: how good a model is, beside simple predictors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import UsageError

if TYPE_CHECKING:
    from hpc_brainage.evaluation.evaluate import Evaluated
    from hpc_brainage.evaluation.openbhb import ChallengeResult

_RECIPE = ".toml"


class Protocol(StrEnum):
    """How people are held out."""

    folds = "folds"
    kfold = "kfold"
    sites = "sites"
    openbhb = "openbhb"


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(help="The folder of a finished run, or a run recipe (TOML) to cross-validate."),
    ] = Path("runs/latest"),
    store: Annotated[str | None, typer.Argument(help="With a recipe: the store to try it on.")] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="With a recipe: folds over people (the default), kfold (scikit-learn's, over people with"
            " all modalities), or sites (one left out at a time). With a run: openbhb, the challenge's."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="With a recipe: seeds of the model for each split.")
    ] = 1,
    set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUE", help="With a recipe: change one setting of it. May be repeated."
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="With a recipe: only these scans, as in \"dx == 'TC'\".")
    ] = None,
    published: Annotated[
        Path | None, typer.Option(help="With openbhb: a CSV of published challenge runs to show beside.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for evaluation.json and evaluation.md; by default the run's, or"
            " evaluations/STORE_RECIPE_PROTOCOL."
        ),
    ] = None,
) -> None:
    """Say how good a model is: errors with intervals, by group, beside simple predictors.

    The mean and median age, ridge, a support vector machine and late fusion are trained on the same people
    as the model and tested on the same. Intervals are over people and over sites.
    """
    if what.suffix == _RECIPE:
        _recipe(what, store, protocol, seeds, set or [], where, published, out)
    else:
        _run(what, store, protocol, seeds, set or [], where, published, out)


def _run(
    folder: Path,
    store: str | None,
    protocol: Protocol | None,
    seeds: int,
    settings: list[str],
    where: str | None,
    published: Path | None,
    out: Path | None,
) -> None:
    if store or settings or where or seeds != 1 or protocol not in (None, Protocol.openbhb):
        raise UsageError(
            "a finished run is evaluated as it is",
            where=folder,
            expected="no store, --set, --where or --seeds, and no --protocol but openbhb",
            hint="brainage evaluate RECIPE.toml STORE --protocol sites --seeds 5",
        )
    if protocol is Protocol.openbhb:
        _openbhb(folder, published, out or folder)
        return
    _no_published(published)
    from hpc_brainage.cli.screen import progress
    from hpc_brainage.evaluation.evaluate import evaluate_run

    with progress("evaluating") as show:
        evaluated = evaluate_run(folder, show)
    _show(evaluated, out or folder, f"Evaluation of the run {folder.resolve().name}")


def _recipe(
    recipe: Path,
    store: str | None,
    protocol: Protocol | None,
    seeds: int,
    settings: list[str],
    where: str | None,
    published: Path | None,
    out: Path | None,
) -> None:
    if store is None:
        raise UsageError(
            "a recipe needs a store to be tried on",
            where=recipe,
            hint="brainage evaluate RECIPE.toml STORE",
        )
    chosen = protocol or Protocol.folds
    if chosen is Protocol.openbhb:
        raise UsageError(
            "OpenBHB's protocol is for a trained model, not for a recipe",
            where="--protocol openbhb",
            hint="brainage train STORE --where \"split == 'train'\", then evaluate that run",
        )
    _no_published(published)
    from hpc_brainage.cli.screen import notes, progress
    from hpc_brainage.config import load_config
    from hpc_brainage.evaluation.evaluate import evaluate_config
    from hpc_brainage.store.place import place_at

    config = load_config(recipe, settings)
    with progress("evaluating") as show:
        evaluated = evaluate_config(store, config, chosen.value, seeds, show, where)
    notes(evaluated.notes)
    name = f"{place_at(store).name.removesuffix('.zarr')}_{recipe.stem}_{chosen}"
    _show(evaluated, out or Path("evaluations") / name, f"Cross-validation of {recipe.name}")


def _no_published(published: Path | None) -> None:
    if published is not None:
        raise UsageError(
            "published runs stand beside a run under OpenBHB's protocol only",
            where=f"--published {published}",
            hint="brainage evaluate RUN --protocol openbhb --published FILE",
        )


def _show(evaluated: Evaluated, folder: Path, title: str) -> None:
    from hpc_brainage.cli.screen import notes, say, table
    from hpc_brainage.evaluation.report import NOTE, heading, tables, write_report

    record, text = write_report(folder, evaluated.found, title, evaluated.about)
    say(heading(evaluated.found))
    for part in tables(evaluated.found):
        first, *others = part.content.columns
        numbers = [f">{name}" for name in others]
        table(part.title, (first, *numbers), part.content.itertuples(index=False, name=None))
    say(NOTE)
    notes(evaluated.found.verdicts)
    say(f"report  {text}")
    say(f"record  {record}")


def _openbhb(folder: Path, published: Path | None, out: Path) -> None:
    from hpc_brainage.cli.screen import say, table
    from hpc_brainage.evaluation.evaluate import evaluate_openbhb
    from hpc_brainage.evaluation.openbhb import published_runs
    from hpc_brainage.evaluation.report import write_challenge

    known = [] if published is None else published_runs(published)
    found: list[ChallengeResult] = [*evaluate_openbhb(folder), *known]
    record, text, content = write_challenge(out, found)
    first, *others = content.columns
    table(
        "OpenBHB's protocol: age and site read from frozen codes",
        (first, *(f">{name}" for name in others)),
        content.itertuples(index=False, name=None),
    )
    say("MAE in years; the score is external MAE times the site's balanced accuracy (0 to 1) to the 0.3;")
    say("lower is better. Published runs were tested on the challenge's own private people.")
    say(f"report  {text}")
    say(f"record  {record}")
