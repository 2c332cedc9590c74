"""How fast many members are trained in one pass, beside one after the other.

    python tools/bench_stacked.py STORE [--config RECIPE] [--members 50] [--epochs 10]

Both sides train the same members, 5 folds times so many seeds, on the same people for the same epochs, from
the features on: fitting the front ends is part of it. One after the other goes through the engine that
`brainage train` uses for volumes and on several devices; `--alone` members of that side are timed, and the
time of all is their number times the mean. Rounds are interleaved, medians are printed, and the largest
difference between the two sides' predictions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("store", type=Path)
    words.add_argument("--config", type=Path, default=Path("configs/abide-multimodal.toml"))
    words.add_argument("--members", type=int, default=50)
    words.add_argument("--alone", type=int, default=5, help="members that are trained one after the other")
    words.add_argument("--epochs", type=int, default=10)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    said = words.parse_args()

    import numpy as np
    import torch

    from hpc_brainage.config import load_config
    from hpc_brainage.store.reader import Store
    from hpc_brainage.training.data import load_training_data
    from hpc_brainage.training.distributed import join_processes
    from hpc_brainage.training.folds import assign_folds
    from hpc_brainage.training.loop import MemberTask, train_member
    from hpc_brainage.training.prediction import predict_rows
    from hpc_brainage.training.stacked import train_stacked

    config = load_config(said.config, [f"training.epochs={said.epochs}"])
    processes = join_processes(said.device)
    data = load_training_data(Store.open(said.store), config)
    fold = assign_folds(data.scans, data.availability, 5, 0)
    tasks = [MemberTask(k, np.flatnonzero(fold != k % 5), k) for k in range(said.members)]
    everyone = np.arange(len(data.scans))
    seconds: dict[str, list[float]] = {"stacked": [], "one": []}
    apart, steps = 0.0, 0
    for number in range(said.rounds + 1):  # the first warms up
        started = time.perf_counter()
        found = train_stacked([data] * len(tasks), tasks, config, processes.device, lambda record: None)
        together = {place: (member, summary) for place, member, summary in found}
        ended = time.perf_counter()
        own = [
            train_member(data, task, config, processes, lambda record: None)[0]
            for task in tasks[: said.alone]
        ]
        one = (time.perf_counter() - ended) / said.alone
        for place, member in enumerate(own):
            ages = predict_rows(member.to("cpu"), data, everyone)["age"]
            difference = ages - predict_rows(together[place][0], data, everyone)["age"]
            apart = max(apart, float(np.nanmax(np.abs(difference))))
        steps = int(together[0][1]["steps"])
        if number:
            seconds["stacked"].append(ended - started)
            seconds["one"].append(one * said.members)
    ratio = statistics.median(a / b for a, b in zip(seconds["one"], seconds["stacked"], strict=True))
    device = torch.cuda.get_device_name() if processes.device.type == "cuda" else "CPU"
    print(f"{time.strftime('%Y-%m-%d')}, {device}, {torch.get_num_threads()} threads", end=", ")
    print(f"torch {torch.__version__}; {said.members} members, {steps} steps each")
    for name, side in (("one after the other", "one"), ("stacked", "stacked")):
        taken = statistics.median(seconds[side])
        print(f"{name:20s} {taken:8.1f} s   {1e3 * taken / steps / said.members:6.2f} ms a member's step")
    print(f"times as fast        {ratio:8.1f}")
    print(f"largest difference of an age  {apart:.1e} years")


if __name__ == "__main__":
    main()
