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
from slurm.asking import ask, wait_for, wait_until

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
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.jobs/*/*.log")))


def test_an_array_makes_the_bytes_of_one_process(slurm: None, cohort: Path) -> None:
    jobs = submitted(cohort, "array.zarr")
    array, last = jobs.split(",")
    wait_for(jobs)
    assert ends(jobs, 7) == {f"{array}_{n}": "COMPLETED" for n in range(1, 7)} | {last: "COMPLETED"}, logs(
        cohort
    )
    assert hashes(cohort / "array.zarr") == hashes(cohort / "alone.zarr")
    assert (cohort / "array.account.tsv").read_bytes() == (cohort / "alone.account.tsv").read_bytes()
    assert "share 6 of 6" in logs(cohort)
    assert "\x1b" not in logs(cohort)  # what a bar on a terminal is drawn with
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
    (log,) = cohort.glob(f"cancelled.zarr.jobs/*/job-{last}.log")
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


def test_the_sbatch_file_by_hand_goes_on_when_its_time_is_nearly_up(
    slurm: None, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(cohort)
    stuck(cohort, "by hand, timed")
    monkeypatch.setenv("PYTHONPATH", str(cohort / "by hand, timed"))
    assert type_command(cohort, "convert", "images", "timed by hand.zarr", "--init").code == 0
    file = str(REPOSITORY / "slurm" / "convert.sbatch")
    job = ask("sbatch", "--parsable", "--array", "1-1", file, "images", "timed by hand.zarr").strip()
    wait_until((cohort / "by hand, timed" / "is stuck").exists)
    ask("scancel", "--signal=USR2", f"{job}_1")
    wait_for(job)
    said = "\n".join(path.read_text() for path in sorted(cohort.glob("brainage-convert-*.log")))
    assert ends(job, 1) == {f"{job}_1": "COMPLETED"}, said
    assert f"job {job}_1 was told to stop and asks to be queued again" in said
    assert "share 1 of 1: parts 1 to 6 of 6 are done" in said


def stuck(folder: Path, name: str) -> str:
    """A site whose first job of an array sleeps for longer than a test may take, in its first start only.

    It does so in the middle of the command; the file NAME appears then.
    """
    (folder / name).mkdir()
    (folder / name / "sitecustomize.py").write_text(
        "import os, pathlib, sys, time\n"
        "class Stuck:\n"
        "    def find_spec(self, module, *_):\n"
        "        if module == 'hpc_brainage.conversion.parts':\n"
        f"            pathlib.Path({str(folder / name / 'is stuck')!r}).touch()\n"
        "            time.sleep(300)\n"
        "if os.environ.get('SLURM_ARRAY_TASK_ID') == '1' and 'SLURM_RESTART_COUNT' not in os.environ:\n"
        "    sys.meta_path.insert(0, Stuck())\n"
    )
    site = f"{name}.toml"
    (folder / site).write_text(f"{SITE}setup = ['export PYTHONPATH=\"{folder / name}\"']\n")
    return site


def begun(folder: Path, name: str) -> tuple[str, str]:
    """Submit a conversion whose first job is stuck, and wait until it is: the array, and the last job."""
    answer = type_command(
        folder, "convert", "images", f"{name}.zarr", "--cluster", stuck(folder, name), "--jobs", 2
    )
    assert answer.code == 0, answer.text
    array, last = answer.text.partition("squeue -j ")[2].split()[0].split(",")
    wait_until((folder / name / "is stuck").exists)
    return array, last


def went_on(folder: Path, name: str, array: str, last: str) -> None:
    """Wait for the jobs; the stuck one came back, all of it was done by the array, and it is right."""
    wait_for(f"{array},{last}")
    states = {f"{array}_1": "COMPLETED", f"{array}_2": "COMPLETED", last: "COMPLETED"}
    assert ends(f"{array},{last}", 3) == states, logs(folder)
    (log,) = folder.glob(f"{name}.zarr.jobs/*/job-{last}.log")
    assert "everything had been converted before; nothing was left to do" in log.read_text()
    assert hashes(folder / f"{name}.zarr") == hashes(folder / "alone.zarr")


def test_a_preempted_job_goes_on_later_and_the_last_one_waits_for_it(slurm: None, cohort: Path) -> None:
    array, last = begun(cohort, "preempted")
    words = ("sbatch", "--parsable", "--partition=urgent", "--nodes=4", "--exclusive", "--wrap", "true")
    urgent = ask(*words, "--output=/dev/null").strip()
    wait_for(urgent)
    went_on(cohort, "preempted", array, last)


def test_a_job_whose_time_is_nearly_up_queues_itself_again_and_no_other_one(
    slurm: None, cohort: Path
) -> None:
    """SLURM sends the signal itself up to a minute early; here the test does."""
    array, last = begun(cohort, "timed")
    ask("scancel", "--signal=USR2", f"{array}_1")
    went_on(cohort, "timed", array, last)
    (log,) = cohort.glob(f"timed.zarr.jobs/*/job-{array}_1.log")
    assert f"job {array}_1 was told to stop and asks to be queued again" in log.read_text()
    other = next(cohort.glob(f"timed.zarr.jobs/*/job-{array}_2.log"))
    assert other.read_text().count("share 2 of 2") == 1


def test_a_job_that_runs_is_cancelled_for_good(slurm: None, cohort: Path) -> None:
    array, last = begun(cohort, "ended")
    ask("scancel", f"{array}_1")
    wait_for(f"{array},{last}")
    assert ends(f"{array},{last}", 3) == {
        f"{array}_1": "CANCELLED", f"{array}_2": "COMPLETED", last: "COMPLETED"
    }, logs(cohort)  # fmt: skip
    assert hashes(cohort / "ended.zarr") == hashes(cohort / "alone.zarr")


def test_a_partition_that_is_not_there_is_answered_with_those_that_are(slurm: None, cohort: Path) -> None:
    (cohort / "elsewhere.toml").write_text('partition = "mian"')
    answer = type_command(cohort, "convert", "images", "x.zarr", "--cluster", "elsewhere.toml")
    assert answer.code == 2
    assert "partition = 'mian'" in answer.text
    assert "main (4 nodes, 2 GPUs each), urgent (4 nodes, 2 GPUs each)" in answer.text
    typed = ("--cluster", "site.toml", "--partition", "mian")
    assert type_command(cohort, "convert", "images", "x.zarr", *typed).text == answer.text
