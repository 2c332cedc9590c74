"""A conversion that is killed and run again ends in the bytes of one that was left alone."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed_conversion.py")


def killed(folder: Path, *arguments: object) -> dict[str, dict]:
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(120)
def test_killed_at_any_step_of_its_writing(tmp_path: Path) -> None:
    stores = killed(tmp_path, "steps", 8, 9)
    undisturbed = stores.pop("undisturbed")["finished"]
    assert "zarr.json" in undisturbed
    assert not any(name.startswith("_build") for name in undisturbed)
    for moment, store in stores.items():
        assert store["finished"] == undisturbed, moment

    left = [set(store["left"]) for store in stores.values()]
    assert len(left) >= 10
    halves = [name for files in left for name in files if name.endswith(".tmp")]
    assert halves, "before a rename"
    assert all(re.fullmatch(r"_build/[0-9a-f]{16}/\w+\.tmp", name) for name in halves)


@pytest.mark.timeout(120)
def test_killed_between_what_is_written_and_what_says_so(tmp_path: Path) -> None:
    manifest, marker = "_build/*/part-00000.json", "zarr.json"
    stores = killed(tmp_path, "before", manifest, f"age/{marker}", f"*_refused/{marker}", marker)
    undisturbed = stores.pop("undisturbed")["finished"]
    for moment, store in stores.items():
        assert store["finished"] == undisturbed, moment
    left = stores[manifest]["left"]
    assert {"smri_table/c.0.0", "smri_vbm/c.0.0.0.0"} <= set(left)
    assert not fnmatch.filter(left, manifest)
    left = stores[marker]["left"]
    assert {"age/zarr.json", "smri_vbm_refused/zarr.json"} <= set(left)
    assert marker not in left


@pytest.mark.timeout(120)
def test_killed_at_random_times(tmp_path: Path) -> None:
    stores = killed(tmp_path, "times", 7, 10)
    undisturbed = stores.pop("undisturbed")["finished"]
    assert len(stores) == 10
    for moment, store in stores.items():
        assert store["finished"] == undisturbed, moment
