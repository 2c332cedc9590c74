"""What `brainage train --nodes` takes to submit a job, beside sbatch alone.

    eval "$(slurm/sandbox env)"; python tools/bench_submission.py STORE [--rounds 5]

On a cluster's login node, or in the sandbox. Three things are timed in turn, round by round, and their
medians printed: sbatch, given the file that we would submit; our own call that writes and submits it; and
the whole command, which starts Python, reads store and settings, asks `sinfo`, prepares the run and copies
the code first. All jobs are held, and cancelled at once: nothing is trained.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SITE = "[extra]\nhold = true\n"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("store", type=Path)
    words.add_argument("--rounds", type=int, default=5)
    said = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), said.store.absolute(), said.rounds)
    for way, seconds in found.items():
        print(f"{way:20} {statistics.median(seconds):.3f} s  ({min(seconds):.3f} to {max(seconds):.3f})")


def measured(folder: Path, store: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way to submit, round by round; the first round warms up and is left out."""
    from hpc_brainage.cluster.resources import read_resources
    from hpc_brainage.cluster.run_job import batch_file, plan_job, submit_run

    (folder / "site.toml").write_text(SITE)
    run = folder / "run"
    run.mkdir()
    job = plan_job(run, 1, read_resources(str(folder / "site.toml")), "slurm")
    file = folder / "job.sh"
    file.write_text(batch_file(run, job))
    command = [sys.executable, "-m", "hpc_brainage.cli.main", "train", str(store), "--cluster", "site.toml"]
    found: dict[str, list[float]] = {"sbatch": [], "our call": [], "the whole command": []}
    for number in range(rounds + 1):
        started = time.perf_counter()
        said = subprocess.run(["sbatch", "--parsable", file], check=True, capture_output=True, text=True)
        sbatch = time.perf_counter() - started
        numbers = [said.stdout.strip()]
        started = time.perf_counter()
        numbers.append(str(submit_run(run, job).id))
        ours = time.perf_counter() - started
        started = time.perf_counter()
        words = [*command, "--name", f"run-{number}"]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
        whole = time.perf_counter() - started
        numbers.append(done.stdout.split("job ")[1].split(":")[0])
        subprocess.run(["scancel", *numbers], check=True)
        if number:
            for way, seconds in zip(found, (sbatch, ours, whole), strict=True):
                found[way].append(seconds)
    return found


if __name__ == "__main__":
    main()
