"""What a job runs: one process of a prepared training run.

`python -m hpc_brainage.cli.worker RUN_FOLDER` is started once for each device: by SLURM's srun, by
`brainage train --cluster local`, or by a launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT, as torchrun does. `brainage train` calls the same function in its own process.

It ends with exit code 75 when it was told to stop (SIGUSR2 or SIGTERM) and what it has is saved; at once
with 0 where the run is finished already.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hpc_brainage.errors import BrainAgeError, ExitCode, UsageError, unusable

if TYPE_CHECKING:
    from hpc_brainage.model.bundle import Bundle
    from hpc_brainage.training.data import TrainingData

STOPPED_EXIT = int(ExitCode.STOPPED)


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

    made: list[Bundle] = []
    run_training(
        run, on_start=on_start, on_epoch=on_epoch, finish=lambda finished: made.append(complete(finished))
    )
    return made[0] if made else None


def main(arguments: list[str]) -> int:
    """Entry point of a job's process; returns its exit code."""
    # Before training and after it there is nothing that is not saved already; training has its own way.
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, _end_at_once)
    rank, start = 0, None
    try:
        if len(arguments) != 1:
            raise UsageError("one run folder is needed", expected="python -m hpc_brainage.cli.worker RUN")
        run = Path(arguments[0])
        from hpc_brainage.cluster.ranks import join, started
        from hpc_brainage.cluster.run_job import check_version, keep_this_job
        from hpc_brainage.training.records import RunFolder

        rank, start = started()
        if RunFolder(run).is_finished:  # by somebody else, while the job waited
            print("the run is finished already", file=sys.stderr)
            return 0
        joined = join()  # noqa: F841 - keeps the port that torch will have
        check_version(run)
        from hpc_brainage.training.stop import Stopped

        try:
            work(run, on_start=lambda data: keep_this_job(run))  # nobody else may train by then
        except Stopped as stopped:
            # All have saved: the first to end makes srun end the others, which are ending by themselves.
            for number in (signal.SIGUSR2, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            print(stopped.what, file=sys.stderr)
            return STOPPED_EXIT
    except Exception as problem:
        error = (unusable(problem) if isinstance(problem, OSError) else None) or problem
        is_ours = isinstance(error, BrainAgeError)
        what = str(error) if is_ours else "".join(traceback.format_exception(error))
        with suppress(OSError):  # the log, too, may lie on a disk that is full
            print(f"error: {what}", file=sys.stderr, flush=True)
        if start is not None:
            from hpc_brainage.cluster.starts import UNRECORDED
            from hpc_brainage.training.distributed import tells_of_a_loss

            try:
                start.record(rank, str(error) or repr(error), is_loss=tells_of_a_loss(problem))
            except OSError:
                return UNRECORDED
        return int(error.exit_code) if isinstance(error, BrainAgeError) else int(ExitCode.INTERNAL)
    return 0


def _end_at_once(number: int, frame: object) -> NoReturn:
    os.write(2, f"told to stop by {signal.Signals(number).name}; what is finished is kept\n".encode())
    os._exit(STOPPED_EXIT)


def _leave(code: int) -> NoReturn:
    """End the process with this code, whatever the libraries' own threads are at.

    On the ordinary way out the threads of gloo and of torch's store may be torn down while they run, and
    that aborts the process: a finished job would count as failed, and be started again.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
