"""A process of a training job whose disk hangs for ever in the middle of a checkpoint; in one start only.

    python stuck_saving.py MARK PYTHON -P -m hpc_brainage.cli.worker RUN

It stands before the command of each process, as a container would. The file MARK appears when the second
checkpoint is half written, and where it is there already nothing hangs.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

from hpc_brainage.cli import worker

SECOND = 2


def hang(mark: Path) -> None:
    """Arrange that the second checkpoint of this process is never whole."""
    from hpc_brainage.training import snapshot

    write_flat, count = snapshot._write_flat, itertools.count(1)

    def stuck(file: object, pieces: object, digest: object) -> None:
        if next(count) == SECOND:
            file.write(b"half of it")
            file.flush()
            mark.touch()
            time.sleep(1e6)
        write_flat(file, pieces, digest)

    snapshot._write_flat = stuck


def main(mark: str, run: str) -> int:
    if not Path(mark).exists():
        work = worker.work

        def stuck_work(run: Path, **told: Any) -> object:
            hang(Path(mark))  # only now: torch is not to be imported before the processes have met
            return work(run, **told)

        worker.work = stuck_work
    return worker.main([run])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[-1]))
