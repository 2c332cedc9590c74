"""What a job runs: one process of a prepared training run.

`python -m hpc_brainage.cli.worker RUN_FOLDER` is started once for each device, by this machine or by a
cluster's launcher, which says through RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT which
process it is. `brainage train` calls the same function in its own process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_brainage.errors import BrainAgeError, UsageError

if TYPE_CHECKING:
    from hpc_brainage.model.bundle import Bundle
    from hpc_brainage.training.data import TrainingData


def work(
    run: Path,
    *,
    on_start: Callable[[TrainingData], None] | None = None,
    on_epoch: Callable[[dict[str, Any], int, int], None] | None = None,
) -> Bundle | None:
    """Train the run's members, measure them, and return the finished bundle; None but in the first process.

    `on_epoch` is told of each epoch's record, and of how many epochs of how many are done.
    """
    from hpc_brainage.evaluation.evidence import complete
    from hpc_brainage.training.run import run_training

    finished = run_training(run, on_start=on_start, on_epoch=on_epoch)
    return complete(finished) if finished else None


def main(arguments: list[str]) -> int:
    """Entry point of a job's process; returns its exit code."""
    try:
        if len(arguments) != 1:
            raise UsageError("one run folder is needed", expected="python -m hpc_brainage.cli.worker RUN")
        work(Path(arguments[0]))
    except BrainAgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
