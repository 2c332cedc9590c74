"""A conversion as a job array on a real SLURM: the same bytes, whatever happens to its jobs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from cli.commands import type_command
from conversion.synthetic import hashes
from slurm.asking import ask, wait_for

from hpc_brainage.cluster.array import submit
from hpc_brainage.cluster.resources import Resources

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(200)]

REPOSITORY = Path(__file__).parents[2]
GRID = (160, 160, 160)  # eight such images fill a shard
SCANS = 48
# Four cores are a node: four jobs run at a time.
SITE = 'partition = "main"\ncpus = 4\nmemory_gb = 2\ntime = 10\n'


def ends(jobs: str, of: int) -> dict[str, str]:
    """How each of so many jobs ended, by number, once the accounts, which lag behind, say it of all."""
    for _ in range(150):
        listed = ask("sacct", "-X", "-n", "-P", "-j", jobs, "-o", "JobID,State").split()
        states = dict(line.split("|")[:2] for line in listed if "|" in line)
        if len(states) >= of and not {"RUNNING", "PENDING", "COMPLETING"} & set(states.values()):
            return states
        time.sleep(0.2)
    raise AssertionError(f"no account of {jobs}: {states}")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder (with a space in its name) of images, mostly holes, and the store that one process makes."""
    folder = tmp_path_factory.mktemp("my cohort")
    (folder / "images").mkdir()
    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.float32), np.diag([1.2, 1.2, 1.2, 1])).header
    header.set_data_shape(GRID)
    header["vox_offset"] = start = 352
    rng = np.random.default_rng(0)
    for person in range(SCANS):
        with (folder / "images" / f"sub-{person:03d}_T1w.nii").open("wb") as file:
            header.write_to(file)
            file.seek(start)
            file.write(rng.normal(100, 10, 100_000).astype("<f4").tobytes())
            file.truncate(start + 4 * np.prod(GRID, dtype=int))
    (folder / "site.toml").write_text(SITE)
    assert type_command(folder, "convert", "images", "alone.zarr").code == 0
    return folder


def submitted(folder: Path, *words: str) -> str:
    """Type `brainage convert images ... --cluster site.toml`; returns the jobs' numbers."""
    answer = type_command(folder, "convert", "images", *words, "--cluster", "site.toml", "--jobs", "6")
    assert answer.code == 0, answer.text
    assert "array" in answer.text
    return answer.text.partition("squeue -j ")[2].split()[0]


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.jobs/*/*.out")))


def test_an_array_makes_the_bytes_of_one_process(slurm: None, cohort: Path) -> None:
    jobs = submitted(cohort, "array.zarr")
    array, last = jobs.split(",")
    wait_for(jobs)
    assert ends(jobs, 7) == {f"{array}_{n}": "COMPLETED" for n in range(6)} | {last: "COMPLETED"}, logs(
        cohort
    )
    assert hashes(cohort / "array.zarr") == hashes(cohort / "alone.zarr")
    assert (cohort / "array.account.tsv").read_bytes() == (cohort / "alone.account.tsv").read_bytes()
    assert "share 6 of 6" in logs(cohort)
    again = type_command(cohort, "convert", "images", "array.zarr", "--cluster", "site.toml")
    assert (again.code, "nothing was submitted" in again.text) == (0, True)


def test_the_last_job_does_what_a_cancelled_one_left(slurm: None, cohort: Path) -> None:
    jobs = submitted(cohort, "cancelled.zarr")
    array, last = jobs.split(",")
    ask(
        "scancel", f"{array}_5"
    )  # four jobs run at a time: this one has not begun, and never has an account
    wait_for(jobs)
    assert ends(jobs, 6)[last] == "COMPLETED", logs(cohort)
    (log,) = cohort.glob(f"cancelled.zarr.jobs/*/{last}_*.out")
    assert "40 scans skipped" in log.read_text()
    assert hashes(cohort / "cancelled.zarr") == hashes(cohort / "alone.zarr")


def test_the_sbatch_file_does_the_same_by_hand(
    slurm: None, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(cohort)
    assert type_command(cohort, "convert", "images", "by hand.zarr", "--init").code == 0
    file = str(REPOSITORY / "slurm" / "convert.sbatch")
    words = (file, "images", "by hand.zarr")
    array = ask("sbatch", "--parsable", "--array", "1-3", *words).strip()
    last = ask("sbatch", "--parsable", "--dependency", f"afterany:{array}", *words).strip()
    wait_for(f"{array},{last}")
    said = "\n".join(path.read_text() for path in sorted(cohort.glob("brainage-convert-*.log")))
    assert set(ends(f"{array},{last}", 4).values()) == {"COMPLETED"}, said
    assert "share 3 of 3: parts 5 to 6 of 6 are done" in said
    assert "everything had been converted before" in said
    assert hashes(cohort / "by hand.zarr") == hashes(cohort / "alone.zarr")


def test_a_preempted_job_goes_on_later_and_the_last_one_waits_for_it(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command sleeps for longer than the test may take, unless it has been queued again."""
    monkeypatch.chdir(tmp_path)
    program = (
        "import os, pathlib, sys, time; "
        "pathlib.Path(sys.argv[1]).touch(); "
        "'SLURM_RESTART_COUNT' in os.environ or sys.argv[1] == 'last' or time.sleep(300); "
        "pathlib.Path(sys.argv[1] + '-ended').touch()"
    )
    first = [sys.executable, "-c", program, "first"]
    last = [sys.executable, "-c", program, "last"]
    submission = submit([first], last, Resources(partition="main", cpus=4), Path("jobs"), "preempted")
    until = time.monotonic() + 90
    while not (tmp_path / "first").exists():
        assert time.monotonic() < until, ask("squeue")
        time.sleep(0.2)
    urgent = ask(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=4", "--exclusive", "--wrap", "true"
    ).strip()
    wait_for(f"{urgent},{submission.ids}")
    assert ends(submission.ids, 2) == {submission.array: "COMPLETED", submission.last: "COMPLETED"}
    ended = [tmp_path / f"{name}-ended" for name in ("first", "last")]
    assert ended[0].stat().st_mtime < (tmp_path / "last").stat().st_mtime
    assert all(path.exists() for path in ended)


def test_a_partition_that_is_not_there_is_answered_with_those_that_are(slurm: None, cohort: Path) -> None:
    (cohort / "elsewhere.toml").write_text('partition = "mian"')
    answer = type_command(cohort, "convert", "images", "x.zarr", "--cluster", "elsewhere.toml")
    assert answer.code == 2
    assert "partition = 'mian'" in answer.text
    assert "main (4 nodes, 2 GPUs each), urgent (4 nodes, 2 GPUs each)" in answer.text
