"""An ablation of settings on a store, from the recipe to what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_brainage.errors import UsageError, nearest
from hpc_brainage.evaluation.ablation import (
    AVERAGE,
    FULL,
    Effect,
    Row,
    changes_nothing,
    effects,
    grid,
    run_ablation,
)
from hpc_brainage.evaluation.progress import Progress
from hpc_brainage.evaluation.trial import Trial


@dataclass(frozen=True)
class Ablated:
    """What was found, and of what.

    Attributes
    ----------
    effects : every row by view.
    title : of the report.
    about : what was done, for the record.
    """

    effects: list[Effect]
    title: str
    about: dict[str, Any]


def ablate_config(
    trial: Trial,
    recipe: str,
    folder: Path,
    progress: Progress,
    *,
    only: Sequence[str] = (),
    told: Callable[[Sequence[str]], None] = lambda notes: None,
) -> Ablated:
    """Train the model without each of its parts in turn; rows that `folder` holds are not trained again.

    Parameters
    ----------
    recipe : what a report calls the settings.
    only : rows beside the full model; all if empty.
    told : given, before anything is trained, what is worth knowing about the scans and the rows.

    Raises
    ------
    TrainingError : the settings do not fit the store, or too few people could be compared.
    UsageError : there is no such row, or one that was asked for changes nothing.
    """
    data, splits, said = trial.open()
    rows, same = _rows(trial, tuple(data.inputs), only)
    left_out = (
        [f"left out, for these settings are so already: {', '.join(same)}"] if same and not only else []
    )
    told([*data.notes, *left_out])
    found = run_ablation(data, trial.config, splits, trial.chosen_seeds, rows, folder, progress)
    networks = trial.config.training.ensemble
    of_seeds = f"{trial.seeds} seeds" + (f" of {networks} networks each" if networks > 1 else "")
    return Ablated(
        effects(found, rows, data, splits),
        f"Ablation of {recipe}: {said}, {of_seeds}",
        {"recipe": recipe, "protocol": said, **trial.about(data)},
    )


def _rows(trial: Trial, roles: tuple[str, ...], only: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows to train, and the names of those that change nothing."""
    rows = grid(roles)
    names = [row.name for row in rows if row.name != AVERAGE]
    for name in only:
        if name not in names:
            raise UsageError("unknown row", where=f"--row {name}", hint=nearest(name, names))
    same = [row.name for row in rows if changes_nothing(row, trial.config)]
    if asked := [name for name in only if name in same]:
        raise UsageError(
            "this row changes nothing: the settings are so already",
            where=f"--row {asked[0]}",
            hint="leave it out, or change the recipe or --set",
        )
    wanted = (FULL, *only) if only else tuple(row.name for row in rows)
    return [row for row in rows if row.name in wanted and row.name not in same], same
