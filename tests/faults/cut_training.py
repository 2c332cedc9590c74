"""A process of a training run that is cut off at a named moment.

    python cut_training.py RUN [MOMENT RANK NUMBER [THEN]]

`stop` sends SIGTERM to the process of rank RANK itself when it has taken its NUMBER-th step, `kill` sends
it SIGKILL, `freeze` SIGSTOP, `raise` lets it fail with an error. `write` kills it in the middle of its
NUMBER-th checkpoint's tensors, `mark` when the tensors are there and nothing says so yet, `remove` when a
finished member's checkpoints are being removed. `full` lets no file become larger than NUMBER bytes, as if
the disk was full. Ends as a job's process does: 0, or 75 if it
was told to stop, or 3 for an error that is said. The folder of a run may be followed by `--save`: then a
checkpoint is written after every step that finds the last one written.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from hpc_brainage import files
from hpc_brainage.errors import BrainAgeError
from hpc_brainage.training import snapshot
from hpc_brainage.training.keeper import Keeper
from hpc_brainage.training.run import run_training
from hpc_brainage.training.stop import STOPPED_EXIT, Stopped

SIGNALS = {"stop": signal.SIGTERM, "kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


def cut(moment: str, rank: int, number: int) -> None:
    """Arrange that what happens at the moment cuts this process off."""
    if int(os.environ.get("RANK", "0")) != rank:
        return
    after_step, write_flat, write_json = Keeper.after_step, snapshot._write_flat, snapshot.write_json
    remove = files._remove
    count = iter(range(1, 1 << 30))

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted_step(keeper: Keeper, state: object) -> None:
        if next(count) == number:
            if moment == "raise":
                raise ValueError("of no interest")
            os.kill(os.getpid(), SIGNALS[moment])
        after_step(keeper, state)

    def cut_write(file: object, pieces: object, digest: object) -> None:
        if next(count) == number:
            file.write(b"half of it")
            file.flush()
            die()
        write_flat(file, pieces, digest)

    def cut_mark(path: Path, content: object) -> None:
        if next(count) == number:
            die()
        write_json(path, content)

    def cut_removal(folder: Path) -> None:
        if folder.name.startswith(".member") and next(count) == number:
            die()
        remove(folder)

    if moment == "write":
        snapshot._write_flat = cut_write
    elif moment == "mark":
        snapshot.write_json = cut_mark
    elif moment == "remove":
        files._remove = cut_removal
    elif moment == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))
    else:
        Keeper.after_step = counted_step


def save_often() -> None:
    """Write a checkpoint after every step that finds the last one written."""
    begin = Keeper.begin

    def eager(keeper: Keeper, *what: object) -> object:
        keeper.seconds = 0.0
        return begin(keeper, *what)

    Keeper.begin = eager


def work(run: Path) -> int:
    try:
        run_training(run)
    except Stopped:
        return STOPPED_EXIT
    except BrainAgeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    return 0


def main(arguments: list[str]) -> int:
    if "--save" in arguments:
        arguments.remove("--save")
        save_often()
    run, *how = arguments
    if how:
        cut(how[0], int(how[1]), int(how[2]))
    return work(Path(run))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
