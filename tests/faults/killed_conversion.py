"""Convert one cohort again and again, killed with SIGKILL at a different moment each time.

    python killed_conversion.py FOLDER steps FIRST EVERY
    python killed_conversion.py FOLDER times SEED COUNT

`steps` kills at the n-th time that something is flushed to the disk, for n = FIRST, FIRST + EVERY, ...
until a run gets to its end: a file may have its temporary name or its own, a part its shards and no
manifest, the store everything and no marker. `times` kills after a random time. After each kill, the
same conversion runs to its end in a fresh process. Prints, as JSON and by the moment of the kill, the
files that it left and the hashes of the store that was finished after it; "undisturbed" is a run
without a kill.

It is a program of its own because it forks: nothing in it may have started a thread before.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from conversion.synthetic import cohort_of, features, hashes, measurements, people, small_shards, volume

from hpc_brainage.conversion.convert import convert

SCANS = 10


def convert_once(destination: Path, pause: float = 0.0) -> None:
    arrays = {modality: measurements(modality, SCANS) for modality in (features(7), volume())}
    cohort = cohort_of(people(SCANS), arrays, refuse={"smri/vbm": [3]})
    with small_shards():
        convert(cohort, destination, progress=lambda done, total: time.sleep(pause))


def in_a_process(work: Callable[[], None], kill_after: float | None = None) -> bool:
    """Run `work` in a child; whether it came to its end. Any other end than SIGKILL is an error."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as problem:
            print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"a conversion ended with status {status}")
    return status == 0


def dying_at(step: int, work: Callable[[], None]) -> Callable[[], None]:
    """`work`, killed when it flushes something for the `step`-th time, just before or just after."""

    def die() -> None:
        flush, count = os.fsync, itertools.count(1)

        def counted(descriptor: int) -> None:
            here = next(count)  # one step, whatever other threads do
            if here == step and step % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(descriptor)
            if here == step:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = counted
        work()

    return die


def finish(destination: Path) -> dict[str, list[str] | dict[str, str]]:
    left = list(hashes(destination))
    assert in_a_process(partial(convert_once, destination))
    return {"left": left, "finished": hashes(destination)}


def main(folder: Path, how: str, first: int, second: int) -> dict[str, dict]:
    stores = {"undisturbed": finish(folder / "undisturbed.zarr")}
    if how == "steps":
        step, destination = first, folder / f"{first}.zarr"
        while not in_a_process(dying_at(step, partial(convert_once, destination))):
            stores[f"step {step}"] = finish(destination)
            step += second
            destination = folder / f"{step}.zarr"
    else:
        rng = random.Random(first)
        for number in range(second):
            moment = rng.uniform(0.0, 0.5)
            destination = folder / f"time-{number}.zarr"
            in_a_process(partial(convert_once, destination, pause=0.005), kill_after=moment)
            stores[f"{moment:.3f} s"] = finish(destination)
    return stores


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
