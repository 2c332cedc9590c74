"""Killed at any moment and run again, a conversion or an addition ends in the bytes of one left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("random_kills.py")
UNFINISHED = "the conversion of this store has not finished"


def killed(folder: Path, verb: str, count: int) -> tuple[dict[str, str], list[dict]]:
    """The files of a run that was left alone, and the runs that were not."""
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), verb, "7", str(count)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    undisturbed = runs.pop("undisturbed")["finished"]
    for moment, run in runs.items():
        assert run["finished"] == undisturbed, moment
        assert not any(name.startswith((".", "_build")) for name in run["folders"]), moment
    ended_by_kill = [run for run in runs.values() if run["killed"]]
    assert len(ended_by_kill) == count
    return undisturbed, ended_by_kill


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_conversion_killed_at_fifty_random_moments_ends_in_the_same_bytes(tmp_path: Path) -> None:
    undisturbed, runs = killed(tmp_path, "convert", 50)
    assert "store.zarr/zarr.json" in undisturbed
    states = {run["state"] for run in runs}
    assert states <= {"there is no store here", UNFINISHED, "after"}
    assert UNFINISHED in states
    left = [len(run["left"]) for run in runs]
    assert min(left) < 3, "no kill came while it was being planned"
    assert max(left) > 20, "no kill came while it was being finished"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_addition_killed_at_random_moments_leaves_the_store_readable_or_unfinished(
    tmp_path: Path,
) -> None:
    _, runs = killed(tmp_path, "append", 20)
    states = [run["state"] for run in runs]
    assert set(states) <= {"before", UNFINISHED, "after"}
    assert states.count("before") > 5
