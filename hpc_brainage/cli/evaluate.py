"""`brainage evaluate`: how good a model is, beside simple predictors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.trial import HoldingOut

if TYPE_CHECKING:
    from hpc_brainage.evaluation.evaluate import Evaluated
    from hpc_brainage.evaluation.openbhb import ChallengeResult

_RECIPE = ".toml"


class Protocol(StrEnum):
    """How people are held out, or OpenBHB's own way."""

    folds = HoldingOut.folds.value
    kfold = HoldingOut.kfold.value
    sites = HoldingOut.sites.value
    openbhb = "openbhb"


@dataclass(frozen=True)
class _Asked:
    """What was typed."""

    what: Path
    store: str | None
    protocol: Protocol | None
    seeds: int
    settings: list[str]
    where: str | None
    published: Path | None
    out: Path | None


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(help="The folder of a finished run, or a run recipe (TOML) to cross-validate."),
    ] = Path("runs/latest"),
    store: Annotated[
        str | None,
        typer.Argument(
            help="With a recipe: the store to try it on. With a run: where its store lies now, if it was"
            " moved; it is known by its content."
        ),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="With a recipe: folds (the default: everybody is tested, in folds of the same mix, as in a"
            " run), kfold (only people with all modalities are, in scikit-learn's shuffled KFold, as"
            " published comparisons do), or sites (one is left out at a time). With a run: openbhb, the"
            " challenge's."
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
    asked = _Asked(what, store, protocol, seeds, set or [], where, published, out)
    if what.suffix == _RECIPE:
        _recipe(asked)
    else:
        _run(asked)


def _run(asked: _Asked) -> None:
    folder = asked.what
    other = asked.settings or asked.where or asked.seeds != 1
    if other or asked.protocol not in (None, Protocol.openbhb):
        raise UsageError(
            "a finished run is evaluated as it is",
            where=folder,
            expected="no --set, --where or --seeds, and no --protocol but openbhb",
            hint="brainage evaluate RECIPE.toml STORE --protocol sites --seeds 5",
        )
    if asked.protocol is Protocol.openbhb:
        _openbhb(asked)
        return
    _no_published(asked.published)
    from hpc_brainage.cli.screen import progress
    from hpc_brainage.evaluation.evaluate import evaluate_run

    with progress("evaluating") as show:
        evaluated = evaluate_run(folder, show, asked.store)
    _show(evaluated, asked.out or folder, f"Evaluation of the run {folder.resolve().name}")


def _recipe(asked: _Asked) -> None:
    recipe = asked.what
    if asked.store is None:
        raise UsageError(
            "a recipe needs a store to be tried on",
            where=recipe,
            hint="brainage evaluate RECIPE.toml STORE",
        )
    if asked.protocol is Protocol.openbhb:
        raise UsageError(
            "OpenBHB's protocol is for a trained model, not for a recipe",
            where="--protocol openbhb",
            hint="brainage train STORE --where \"split == 'train'\", then evaluate that run",
        )
    _no_published(asked.published)
    from hpc_brainage.cli.screen import notes, progress
    from hpc_brainage.config import load_config
    from hpc_brainage.evaluation.evaluate import evaluate_config
    from hpc_brainage.evaluation.trial import Trial

    holding_out = HoldingOut((asked.protocol or Protocol.folds).value)
    trial = Trial(asked.store, load_config(recipe, asked.settings), holding_out, asked.seeds, asked.where)
    with progress("evaluating") as show:
        evaluated = evaluate_config(trial, show)
    notes(evaluated.notes)
    folder = asked.out or Path("evaluations") / trial.folder_name(recipe)
    _show(evaluated, folder, f"Cross-validation of {recipe.name}")


def _no_published(published: Path | None) -> None:
    if published is not None:
        raise UsageError(
            "published runs stand beside a run under OpenBHB's protocol only",
            where=f"--published {published}",
            hint="brainage evaluate RUN --protocol openbhb --published FILE",
        )


def _show(evaluated: Evaluated, folder: Path, title: str) -> None:
    from hpc_brainage.cli.screen import notes, say, table
    from hpc_brainage.evaluation.report import heading, summary, write_report

    record, text = write_report(folder, evaluated.found, title, evaluated.about)
    say(heading(evaluated.found))
    notes(evaluated.found.verdicts)
    shown = summary(evaluated.found)
    first, *numbers = shown.content.columns
    rows = shown.content.itertuples(index=False, name=None)
    table(shown.title, (first, *(f">{name}" for name in numbers)), rows)
    say("p is of the corrected test over the splits; by sex, age, site and modalities: see the report")
    say(f"report  {text}")
    say(f"record  {record}")


def _openbhb(asked: _Asked) -> None:
    from hpc_brainage.cli.screen import progress, say, table
    from hpc_brainage.evaluation.evaluate import evaluate_openbhb
    from hpc_brainage.evaluation.openbhb import published_runs
    from hpc_brainage.evaluation.report import write_challenge

    folder, out = asked.what, asked.out or asked.what
    known = [] if asked.published is None else published_runs(asked.published)
    with progress("evaluating") as show:
        found: list[ChallengeResult] = [*evaluate_openbhb(folder, show, asked.store), *known]
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
