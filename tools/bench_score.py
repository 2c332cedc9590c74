"""How fast a large cohort is scored, beside the obvious ways of doing it and the networks alone.

    python tools/bench_score.py tabular|volumes FOLDER [--people 50000] [--rounds 3] [--json FILE]

Simulated people: 4,005 functional and 707 structural features of each, or one volume of 121 x 145 x 121
voxels. Store and model are made in FOLDER by the first call and kept there. Sides are measured in turn,
round by round, and medians printed:

- `resident`: what the members compute of a scan, on blocks that lie in memory, with PyTorch's own threads;
  `resident in lanes` with threads that take a block each, which is the limit of what we do. `forward` is
  the ages alone, without uncertainty and depth.
- `one process`: `Predictor.score` over the whole store, in this process: reading, computing and the table.
- `distributed`: `brainage score` with its workers, parts on the disk, from when the first worker has the
  model; start-up and the writing of the tables are given beside it, and are in its CPU time.
- The peers compute the ages alone. `loop` reads a scan with zarr-python and predicts it, one after the
  other; `delayed` does the same as one `dask.delayed` for each person; `map_blocks` is `dask.array` over
  the store's own chunks. All have the model in memory, and Dask's threads, which are the
  fastest of its schedulers for them. The slow ones take `--subset` people, and their rates are of those.

Each side has a process of its own, which is warm before it is measured: the threads that one leaves behind
slow another one down. Each has `--threads` threads in all, and the same setting of the allocator.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_MAX_": "0", "MALLOC_TOP_PAD_": str(1 << 26),
    "MALLOC_ARENA_MAX": "1",
}  # fmt: skip
FMRI, SMRI, GRID = 4005, 707, (121, 145, 121)
TRAINED_ON = {"tabular": 600, "volumes": 32}
SIDES = (
    "resident",
    "resident in lanes",
    "forward",
    "one process",
    "distributed",
    "loop",
    "delayed",
    "map_blocks",
)
Side = Callable[[], tuple[int, float, float]]
"""Scores some scans once: how many, in how many seconds, and with how many of CPU time."""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("kind", choices=("tabular", "volumes"))
    words.add_argument("folder", type=Path)
    words.add_argument("--people", type=int)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    words.add_argument("--subset", type=int, help="people of the slow peers")
    words.add_argument("--sides", help="only these, with commas between")
    words.add_argument("--prepare", action="store_true", help="only make store and model")
    words.add_argument("--json", type=Path)
    said = words.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.environ |= ALLOCATOR
        os.execv(sys.executable, [sys.executable, *sys.argv])
    people = said.people or {"tabular": 50_000, "volumes": 64}[said.kind]
    said.folder.mkdir(parents=True, exist_ok=True)
    store, model = prepared(said.folder, said.kind, people)
    if not said.prepare:
        subset = said.subset or {"tabular": 300, "volumes": 8}[said.kind]
        report = measured(said.kind, store, model, said.folder, subset, said)
        if said.json:
            said.json.write_text(json.dumps(report, indent=2) + "\n")


# -- store and model ------------------------------------------------------------------------------


def prepared(folder: Path, kind: str, people: int) -> tuple[Path, Path]:
    """The store of people to be scored, and a model that was trained on others."""
    from hpc_brainage.config import load_config
    from hpc_brainage.conversion.convert import convert
    from hpc_brainage.evaluation.evidence import complete
    from hpc_brainage.training.records import RunFolder
    from hpc_brainage.training.run import run_training

    store, run = folder / f"{kind}-{people}.zarr", folder / f"{kind}-run"
    if not (store / "zarr.json").is_file():
        convert(cohort(kind, people, seed=1, name="scored"), store, overwrite=True)
    if not (run / "model" / "model.json").is_file():
        training = folder / f"{kind}-training.zarr"
        convert(cohort(kind, TRAINED_ON[kind], seed=0, name="training"), training, overwrite=True)
        own = {
            "tabular": ["training.epochs=20"],
            "volumes": [
                "smri.tables=['vbm']", "smri.encoder=sfcn", "smri.hidden=[8,16,32,64,64,16]",
                "fmri.use=false", "training.epochs=8", "training.folds=2", "training.batch_size=8",
            ],
        }[kind]  # fmt: skip
        finished = run_training(RunFolder.prepare(run, load_config(None, own), training, None).path)
        assert finished is not None
        complete(finished)
    return store, run / "model"


def cohort(kind: str, people: int, seed: int, name: str) -> Any:
    """People whose age is in all that is measured of them; the loadings are the same for every seed."""
    import numpy as np
    import pandas as pd

    from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
    from hpc_brainage.modality import Modality

    draw, common = np.random.default_rng(seed), np.random.default_rng(99)
    age = draw.uniform(10, 80, people)
    scans = pd.DataFrame(
        {
            "participant_id": [f"{seed}{place:07d}" for place in range(people)],
            "session_id": "", "run": "",
            "age": age, "sex": np.where(draw.random(people) < 0.5, "F", "M"),
            "site": [f"site {place % 20}" for place in range(people)], "split": "", "diagnosis": "",
        }
    )  # fmt: skip
    everyone = np.ones(people, dtype=bool)
    standard = ((age - 45) / 20).astype(np.float32)
    sources = {}
    if kind == "tabular":
        noise = draw.normal(size=(2048, FMRI + SMRI)).astype(np.float32)
        for role, width in (("smri", SMRI), ("fmri", FMRI)):
            loading = common.normal(0, 0.2, width).astype(np.float32)
            names = tuple(f"{role} {place}" for place in range(width))
            modality = Modality(role, "table", "features", (width,), names, ("mm",) * width)

            def load(row: int, loading=loading, width=width) -> np.ndarray:
                return standard[row] * loading + np.roll(noise[row % 2048], row // 2048)[:width]

            sources[modality.key] = ModalitySource(modality, everyone, load)
    else:
        modality = Modality("smri", "vbm", "volume", GRID, units=("",))
        x, y, z = (((np.arange(side) - side / 2) / side) ** 2 for side in GRID)
        distance = x[:, None, None] + y[:, None] + z
        head = np.exp(-8 * distance).astype(np.float32)

        def image(row: int) -> np.ndarray:
            rough = np.random.default_rng(seed * 10**6 + row).normal(0, 0.02, GRID)
            return head * (1 - 0.1 * standard[row] + rough.astype(np.float32))

        sources[modality.key] = ModalitySource(modality, everyone, image)
    return Cohort(name, scans, sources, recipe={"reader": "bench"})


# -- the sides ------------------------------------------------------------------------------------


def measured(kind: str, store: Path, model: Path, folder: Path, subset: int, said: Any) -> dict[str, Any]:
    from hpc_brainage.provenance import software

    chosen = said.sides.split(",") if said.sides else list(SIDES)
    rates: dict[str, list[float]] = {name: [] for name in chosen}
    costs: dict[str, list[float]] = {name: [] for name in chosen}
    peaks: dict[str, tuple[int, int]] = {}
    with ExitStack() as held:
        fresh = {"max_workers": 1, "mp_context": multiprocessing.get_context("spawn")}
        sides = {name: held.enter_context(ProcessPoolExecutor(**fresh)) for name in chosen}
        for number in range(said.rounds + 1):
            for name, process in sides.items():
                words = (name, kind, store, model, folder, subset, said.threads)
                (count, seconds, cpu), peaks[name] = process.submit(once, *words).result()
                if number:  # the first warms up
                    rates[name].append(count / seconds)
                    costs[name].append(1000 * cpu / count)
    about = {
        "date": time.strftime("%Y-%m-%d"), "kind": kind, "cores": os.cpu_count(), "threads": said.threads,
        "rounds": said.rounds, "store": store.name, "subset": subset,
        "software": software("torch", "dask", "distributed", "zarr", "pandas", "pyarrow", "numpy"),
        "peak_mb": {name: f"{own}, a worker {worker}" for name, (own, worker) in peaks.items()},
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in about.items() if name != "software"))
    print(", ".join(f"{name} {value}" for name, value in about["software"].items()))
    for name, found in rates.items():
        rate, cost = statistics.median(found), statistics.median(costs[name])
        print(f"{name:17s} {rate:10.1f} scans/s {cost:10.4f} ms of CPU a scan", end="")
        if "resident" in rates:
            by_time = (a / b for a, b in zip(found, rates["resident"], strict=True))
            by_cpu = (b / a for a, b in zip(costs[name], costs["resident"], strict=True))
            print(
                f" {statistics.median(by_time):8.1%} of resident by time,"
                f" {statistics.median(by_cpu):8.1%} by CPU",
                end="",
            )
        print(flush=True)
    return about | {"rates": rates, "cpu_ms_a_scan": costs}


@lru_cache
def side_of(name: str, kind: str, *where: Any) -> Side:
    import torch

    torch.set_num_threads(where[-1])
    return all_sides(kind, *where)[name]


def once(name: str, kind: str, *where: Any) -> tuple[tuple[int, float, float], tuple[int, int]]:
    """What a side took, and the most memory of its process and of one that it has started, MB."""
    took = side_of(name, kind, *where)()
    own, worker = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return took, (own.ru_maxrss // 1024, worker.ru_maxrss // 1024)


def cpu_seconds() -> float:
    """Of this process and of all that it has started and that have ended."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def all_sides(
    kind: str, store_path: Path, model: Path, folder: Path, subset: int, threads: int
) -> dict[str, Side]:
    import dask
    import dask.array as da
    import numpy as np
    import torch
    import zarr

    from hpc_brainage.model.bundle import load_bundle
    from hpc_brainage.model.member import SEX_NUMBERS
    from hpc_brainage.scoring.alignment import match_roles
    from hpc_brainage.scoring.lanes import in_lanes
    from hpc_brainage.scoring.members import ask_members
    from hpc_brainage.scoring.predictor import FEATURE_ROWS_AT_ONCE, VOLUMES_AT_ONCE, Predictor
    from hpc_brainage.store.reader import Store

    store, bundle = Store.open(store_path), load_bundle(model)
    predictor = Predictor(bundle, store, match_roles(store, bundle.info), "bench")
    at_once = FEATURE_ROWS_AT_ONCE if kind == "tabular" else VOLUMES_AT_ONCE
    resident_rows = np.arange(min(store.n_scans, 8192 if kind == "tabular" else 4 * at_once))
    begins = range(0, len(resident_rows), at_once)
    blocks = [predictor.read(resident_rows[at : at + at_once]) for at in begins]
    sexes = [
        torch.tensor(
            [SEX_NUMBERS[sex] for sex in store.scans["sex"].iloc[resident_rows[at : at + at_once]]]
        )
        for at in begins
    ]

    def timed(work: Callable[[], int]) -> Side:
        def side() -> tuple[int, float, float]:
            began, cpu = time.perf_counter(), cpu_seconds()
            count = work()
            return count, time.perf_counter() - began, cpu_seconds() - cpu

        return side

    def ask(waiting: Iterator[tuple[Any, Any]]) -> None:
        for block, sex in waiting:
            ask_members(bundle, block.x, block.present, sex, np.full(len(sex), -1))

    def resident() -> int:
        ask(zip(blocks, sexes, strict=True))
        return len(resident_rows)

    def resident_in_lanes() -> int:
        waiting = iter(list(zip(blocks, sexes, strict=True)))
        in_lanes(lambda: ask(waiting), len(blocks))
        return len(resident_rows)

    def ages(x: dict[str, Any], present: dict[str, Any], sex: Any) -> Any:
        said = [
            member.predict(bundle.inputs_of(place, x), present, sex).age
            for place, member in enumerate(bundle.members)
        ]
        return torch.stack(said).mean(dim=0)

    def forward() -> int:
        for block, sex in zip(blocks, sexes, strict=True):
            ages(block.x, block.present, sex)
        return len(resident_rows)

    def one_process() -> int:
        rows = np.arange(store.n_scans)
        for part in np.array_split(rows, max(1, len(rows) // 4096)):
            predictor.score(part)
        return len(rows)

    arrays = {
        modality.role: zarr.open_array(store_path / modality.array_name, mode="r")
        for modality in store.modalities.values()
    }
    sex_numbers = [SEX_NUMBERS[sex] for sex in store.scans["sex"]]

    def one(row: int) -> float:
        x = {
            role: torch.from_numpy(np.ascontiguousarray(array[row]))[None] for role, array in arrays.items()
        }
        return float(
            ages(
                x, {role: torch.ones(1, dtype=torch.bool) for role in x}, torch.tensor([sex_numbers[row]])
            )[0]
        )

    rows_taken = np.linspace(0, store.n_scans - 1, min(subset, store.n_scans)).astype(int).tolist()

    def loop() -> int:
        for row in rows_taken:
            one(row)
        return len(rows_taken)

    def delayed() -> int:
        tasks = [dask.delayed(one)(row) for row in rows_taken]
        with dask.config.set(scheduler="threads", num_workers=threads):
            dask.compute(*tasks)
        return len(rows_taken)

    def blockwise(*of_roles: np.ndarray) -> np.ndarray:
        x = {
            role: torch.from_numpy(np.ascontiguousarray(v))
            for role, v in zip(arrays, of_roles, strict=True)
        }
        count = len(of_roles[0])
        present = {role: torch.ones(count, dtype=torch.bool) for role in x}
        return ages(x, present, torch.zeros(count, dtype=torch.int64)).numpy()

    def map_blocks() -> int:
        taken = [da.from_zarr(array) for array in arrays.values()]
        count = min(store.n_scans, 8192 if kind == "tabular" else subset)
        first = taken[0][:count].rechunk({1: -1})
        others = [other[:count].rechunk({0: first.chunks[0], 1: -1}) for other in taken[1:]]
        result = da.map_blocks(blockwise, first, *others, drop_axis=list(range(1, first.ndim)), dtype=float)
        with dask.config.set(scheduler="threads", num_workers=threads):
            result.compute()
        return count

    found = {"resident": timed(resident), "resident in lanes": timed(resident_in_lanes)}
    found |= {"forward": timed(forward), "one process": timed(one_process)}
    found["distributed"] = distributed(store_path, model, folder, threads)
    return found | {"loop": timed(loop), "delayed": timed(delayed), "map_blocks": timed(map_blocks)}


def distributed(store: Path, model: Path, folder: Path, workers: int) -> Side:
    """`brainage score`, and what of it is scoring."""
    from hpc_brainage.scoring.fleet import Fleet
    from hpc_brainage.scoring.runner import score_store

    def side() -> tuple[int, float, float]:
        began, cpu = time.perf_counter(), cpu_seconds()
        report = score_store(store, model, folder / "scores" / store.stem, fleet=Fleet(workers=workers))
        whole, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        print(
            f"distributed: {report.seconds:.2f} s of scoring in {whole:.2f} s of the whole command,"
            f" {cpu:.2f} s of CPU time",
            flush=True,
        )
        return len(report.table), report.seconds, cpu

    return side


if __name__ == "__main__":
    main()
