"""From the command to the first epoch: `brainage train --cluster local` beside torchrun.

    python tools/bench_start.py STORE [--rounds 5] [--worlds 1,2]

Both train `configs/tiny.toml` on STORE with the same worker, in turn, round by round; a clock runs from the
start of the command to the line of the first epoch in `metrics.jsonl`, and then the training is ended.
torchrun gets a run that is prepared already, before the clock starts; `brainage train` prepares it, and
copies the code, too. Every process has one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.toml"
_GLANCE = 0.005
_LONGEST = 120.0  # seconds until the first epoch


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("store", type=Path)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--worlds", default="1,2", help="numbers of processes, with commas between")
    said = words.parse_args()
    for world in map(int, said.worlds.split(",")):
        found = measured(said.store.absolute(), world, said.rounds)
        for way, seconds in found.items():
            spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"{world} processes  {way:15} {statistics.median(seconds):.2f} s  {spread}")


def measured(store: Path, world: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way to start, round by round; the first round warms up and is left out."""
    from hpc_brainage.config import load_config
    from hpc_brainage.training.records import RunFolder

    ours = [sys.executable, "-m", "hpc_brainage.cli.main", "train", str(store), "--config", str(CONFIG)]
    ours += ["--nodes", str(world), "--cluster", "local", "--name", "ours"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={world}", "-m", "hpc_brainage.cli.worker", "runs/torchrun"]
    found: dict[str, list[float]] = {"brainage train": [], "torchrun": []}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            RunFolder.prepare(folder / "runs" / "torchrun", load_config(CONFIG), str(store), None)
            seconds = [until_the_first_epoch(ours, folder, "ours")]
            seconds.append(until_the_first_epoch(torchrun, folder, "torchrun"))
        for way, one in zip(found, seconds, strict=True):
            found[way] += [one] if number else []
    return found


def until_the_first_epoch(command: list[str], folder: Path, run: str) -> float:
    """Seconds until a training has written its first epoch down; then it is ended."""
    metrics, log = folder / "runs" / run / "metrics.jsonl", folder / f"{run}.log"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as said:
        began = time.perf_counter()
        training = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=said)
        try:
            while not (metrics.is_file() and b"\n" in metrics.read_bytes()):
                seconds = time.perf_counter() - began
                if training.poll() is not None or seconds > _LONGEST:
                    sys.exit(f"{' '.join(command)} has trained no epoch:\n{log.read_text()}")
                time.sleep(_GLANCE)
            return time.perf_counter() - began
        finally:
            training.terminate()
            training.wait()


if __name__ == "__main__":
    main()
