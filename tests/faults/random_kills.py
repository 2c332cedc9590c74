"""Kill a conversion, or an addition to a store, with SIGKILL at random moments, and let it go on each time.

    python random_kills.py FOLDER convert SEED COUNT
    python random_kills.py FOLDER append SEED COUNT

The moments are spread over the whole time that an undisturbed run takes, from planning to tidying up.
Prints, as JSON, for "undisturbed" and each moment: whether the kill came before the end, the files that it
left, what the store was then ("before", "after", or why it could not be opened), and the names and hashes
of all files once the same command had run to its end.

It is a program of its own because it forks: so every run starts with everything imported, and takes
milliseconds. Nothing in it may have started a thread before.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from conversion.synthetic import cohort_of, features, hashes, measurements, people, small_shards, volume
from faults.forked import in_a_process

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.append import append
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import StoreError
from hpc_brainage.store.reader import Store

SCANS, SCANS_BEFORE = 22, 13
MODALITIES = (features(7), volume((6, 7, 5)))
VALUES = {modality: measurements(modality, SCANS) for modality in MODALITIES}


def cohort(first: int = 0, last: int = SCANS) -> Cohort:
    rows = np.arange(first, last)
    scans = people(SCANS).iloc[rows].reset_index(drop=True)
    values = {modality: of_all[rows] for modality, of_all in VALUES.items()}
    return cohort_of(scans, values, refuse={"smri/vbm": [2]})


def convert_it(store: Path) -> None:
    with small_shards():
        convert(cohort(), store, workers=2)


def append_to_it(store: Path) -> None:
    with small_shards():
        append(cohort(SCANS_BEFORE - 4), store, workers=2)


def make_what_is_added_to(store: Path) -> None:
    with small_shards():
        convert(cohort(0, SCANS_BEFORE), store, workers=2)


def state(store: Path) -> str:
    """What somebody who wants to read the store meets; old scans must be what they were."""
    try:
        opened = Store.open(store)
    except StoreError as problem:
        return problem.what
    old = range(SCANS_BEFORE)
    for modality, values in VALUES.items():
        rows = [row for row in old if opened.present(modality.key)[row]]
        np.testing.assert_array_equal(opened.read(modality.key, rows), values[rows])
    return {SCANS_BEFORE: "before", SCANS: "after"}[opened.n_scans]


def main(folder: Path, verb: str, seed: int, count: int) -> dict[str, dict]:
    work = {"convert": convert_it, "append": append_to_it}[verb]
    (folder / "base").mkdir()
    if verb == "append":
        assert in_a_process(partial(make_what_is_added_to, folder / "base" / "store.zarr"))

    def fresh(name: str) -> Path:
        return shutil.copytree(folder / "base", folder / name) / "store.zarr"

    durations = []
    for number in range(3):
        store = fresh(f"undisturbed-{number}")
        begun = time.monotonic()
        assert in_a_process(partial(work, store))
        durations.append(time.monotonic() - begun)
    runs: dict[str, dict] = {"undisturbed": {"finished": hashes(store.parent)}}
    rng = random.Random(seed)
    kills = 0
    while kills < count and len(runs) < 4 * count:
        moment = rng.uniform(0.0, max(durations))
        store = fresh(f"{verb}-{len(runs)}")
        ended = in_a_process(partial(work, store), kill_after=moment)
        kills += not ended
        left = sorted(hashes(store.parent))
        found = state(store)
        assert in_a_process(partial(work, store))
        runs[f"kill {len(runs)} after {moment:.4f} s"] = {
            "killed": not ended,
            "left": left,
            "state": found,
            "finished": hashes(store.parent),
            "folders": sorted(path.name for folder in (store, store.parent) for path in folder.iterdir()),
        }
        shutil.rmtree(store.parent)
    return runs


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
