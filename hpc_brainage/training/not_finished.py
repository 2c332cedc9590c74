"""What lies at a path that should be a finished run and is none, in words."""

from __future__ import annotations

from pathlib import Path

from hpc_brainage.errors import TrainingError
from hpc_brainage.model.bundle import INFO
from hpc_brainage.store.marker import MARKER
from hpc_brainage.training.records import RunFolder, runs_in

_RUNS = Path("runs")
_SHOWN = 10


def not_a_finished_run(path: Path) -> TrainingError:
    """The error to raise for a path at which there is no finished run: it says what is there instead."""
    if not path.exists():
        beside = path.parent if runs_in(path.parent) else _RUNS
        hint = _finished_in(beside) or "`brainage train` makes one; `brainage jobs` lists the runs"
        return TrainingError("there is no run here", where=path, hint=hint)
    if (path / MARKER).is_file():
        return TrainingError(
            "this is a store, and not a run",
            where=path,
            expected="a folder that `brainage train` has finished",
            hint=_finished_in(_RUNS) or f"`brainage train {path}` makes a run of it",
        )
    if (path / INFO).is_file():
        is_of_run = (path.resolve().parent / "request.json").is_file()
        hint = f"name the run itself: {path.resolve().parent}" if is_of_run else "name the run that made it"
        return TrainingError(
            "this is a model, without the people whom it was trained on", where=path, hint=hint
        )
    if (path / "request.json").is_file():
        return TrainingError(
            f"this run is not finished ({RunFolder(path).status().get('state', 'prepared')})",
            where=path,
            expected="a folder that `brainage train` has finished",
            hint="the same `brainage train` again goes on with it",
        )
    if runs_in(path):
        return TrainingError(
            "this folder holds runs, and is none",
            where=path,
            hint=_finished_in(path) or "none of them is finished; `brainage jobs` says how they are",
        )
    return TrainingError(
        "this is not a run of hpc_brainage",
        where=path,
        hint=_finished_in(_RUNS) or "`brainage train` makes one",
    )


def _finished_in(folder: Path) -> str | None:
    """The finished runs of a folder, the first few of them; None if there is none."""
    names = [str(path) for path in runs_in(folder) if RunFolder(path).is_finished]
    if not names:
        return None
    more = f", ... ({len(names)})" if len(names) > _SHOWN else ""
    return f"finished runs: {', '.join(names[:_SHOWN])}{more}"
