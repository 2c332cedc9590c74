"""How long saving a checkpoint holds training up, beside `torch.save` and a flush to the disk.

    python tools/bench_checkpoint.py FOLDER

A checkpoint has a network's parameters and AdamW's two moments, in single precision. Ours is copied on the
host while training waits, and written by a thread meanwhile. Both sides write into FOLDER, in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import torch

from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import Piece
from hpc_brainage.training.keeper import Keeper, State
from hpc_brainage.training.stop import Agreement, Signals

MEGABYTES = (12, 120, 1200)


def with_torch(values: dict[str, torch.Tensor], folder: Path) -> float:
    """Seconds of `torch.save` with a flush."""
    began = time.perf_counter()
    with (folder / "torch.pt").open("wb") as file:
        torch.save(values, file)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def ours(keeper: Keeper, values: dict[str, torch.Tensor], step: int) -> tuple[float, float]:
    """Seconds that training waits, and until everything is on the disk."""
    state = State(
        step=step,
        pieces={name: Piece(0, tensor) for name, tensor in values.items()},
        fixed={},
        sizes={name: tensor.numel() for name, tensor in values.items()},
        record={},
    )
    began = time.perf_counter()
    keeper.save(state)
    waited = time.perf_counter() - began
    keeper._wait()
    return waited, time.perf_counter() - began


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("folder", type=Path)
    words.add_argument("--rounds", type=int, default=5)
    asked = words.parse_args()
    processes = Processes(0, 1, torch.device("cpu"))
    print(f"{date.today()}, torch {torch.__version__}, medians of {asked.rounds} rounds, milliseconds")
    print(f"{'MB':>6} {'torch.save':>12} {'ours, wait':>12} {'of it':>8} {'ours, all':>12}")
    for megabytes in MEGABYTES:
        values = {
            name: torch.randn(megabytes * 10**6 // 12) for name in ("values", "exp_avg", "exp_avg_sq")
        }
        theirs, waits, wholes = [], [], []
        with tempfile.TemporaryDirectory(dir=asked.folder) as place:
            agreement = Agreement(processes, timedelta(minutes=1))
            with Keeper(Path(place), "bench", processes, Signals(), agreement, 60.0) as keeper:
                keeper.begin("member-0")
                for step in range(-1, asked.rounds):
                    torch_seconds = with_torch(values, Path(place))
                    wait, whole = ours(keeper, values, step + 2)
                    if step >= 0:
                        theirs.append(torch_seconds)
                        waits.append(wait)
                        wholes.append(whole)
        ratio = statistics.median(wait / torch for wait, torch in zip(waits, theirs, strict=True))
        a, b, c = (1000 * statistics.median(times) for times in (theirs, waits, wholes))
        print(f"{megabytes:>6} {a:>12.1f} {b:>12.1f} {ratio:>8.1%} {c:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
