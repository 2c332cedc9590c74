"""Convert one cohort again and again, killed with SIGKILL at a different moment each time.

    python killed_conversion.py FOLDER steps FIRST EVERY
    python killed_conversion.py FOLDER times SEED COUNT
    python killed_conversion.py FOLDER before PATTERN...

`before` kills when a file whose key fits PATTERN is about to be written. `steps` kills at the n-th time
that something is flushed to the disk, for n = FIRST, FIRST + EVERY, ... until a run gets to its end: a
file may have its temporary name or its own, a part its shards and no manifest, the store everything and
no marker. `times` kills after a random time. After each kill, the same conversion runs to its end in a
fresh process. Prints, as JSON and by the moment of the kill, the files that it left and the hashes of the
store that was finished after it; "undisturbed" is a run without a kill.

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
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from conversion.synthetic import cohort_of, features, hashes, measurements, people, small_shards, volume
from faults.forked import in_a_process

from hpc_brainage.conversion.convert import convert
from hpc_brainage.store.building import Build

SCANS = 10


def convert_once(destination: Path, pause: float = 0.0) -> None:
    arrays = {modality: measurements(modality, SCANS) for modality in (features(7), volume())}
    cohort = cohort_of(people(SCANS), arrays, refuse={"smri/vbm": [3]})
    with small_shards():
        convert(cohort, destination, progress=lambda done, total: time.sleep(pause))


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


def dying_before(pattern: str, work: Callable[[], None]) -> Callable[[], None]:
    """`work`, killed when it is about to write a file whose key fits."""

    def die() -> None:
        write = Build.write

        def watched(build: Build, key: str, pieces: list[bytes]) -> None:
            if fnmatchcase(key, pattern):
                os.kill(os.getpid(), signal.SIGKILL)
            write(build, key, pieces)

        Build.write = watched
        work()

    return die


def finish(destination: Path) -> dict[str, list[str] | dict[str, str]]:
    left = list(hashes(destination))
    assert in_a_process(partial(convert_once, destination))
    return {"left": left, "finished": hashes(destination)}


def main(folder: Path, how: str, *said: str) -> dict[str, dict]:
    stores = {"undisturbed": finish(folder / "undisturbed.zarr")}
    if how == "before":
        for number, pattern in enumerate(said):
            destination = folder / f"before-{number}.zarr"
            assert not in_a_process(dying_before(pattern, partial(convert_once, destination)))
            stores[pattern] = finish(destination)
        return stores
    first, second = map(int, said)
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
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
