"""How fast random batches of volumes come out of a store, beside other readers of the same voxels.

    python tools/bench_load.py [--images FOLDER] [--scans 40] [--rounds 5] [--folder /tmp]

Every reader fills the same float32 batch of 8 volumes, drawn at random, again and again, from a warm page
cache; readers are interleaved round by round in one process with one allocator setting, and medians are
printed. The peers are zarr-python and tensorstore on the store that zarr-python writes by default (one
chunk for each scan), what MONAI's PersistentDataset does (`torch.load` of one file for each scan), and a
copy in memory, which no reader can beat.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench_convert import ALLOCATOR, loop_over, ours, read_nifti, write_niftis

BATCH = 8


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--images", type=Path, help="a folder with a T1w image in .nii.gz")
    words.add_argument("--scans", type=int, default=40)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    words.add_argument("--folder", type=Path, help="where everything is written; removed afterwards")
    words.add_argument("--allocator", choices=("reuse", "default"), default="reuse")
    said = words.parse_args()
    if said.allocator == "reuse" and "MALLOC_TOP_PAD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    with tempfile.TemporaryDirectory(prefix="bench-load-", dir=said.folder) as folder:
        run(Path(folder), said.images, said.scans, said.rounds, said.threads, said.allocator)


def run(folder: Path, images: Path | None, scans: int, rounds: int, threads: int, allocator: str) -> None:
    import numpy as np

    from hpc_brainage.provenance import software

    name, _ = write_niftis(folder / "nifti", images, scans)
    files = sorted((folder / "nifti").glob("*.nii.gz"))
    loop_over(files, read_nifti, folder / "peer.zarr")
    readers: dict[str, Callable[[list[int]], object]] = {}
    shape = (BATCH, *read_nifti(files[0]).shape)
    batch = np.empty(shape, np.float32)
    readers["zarr-python"] = zarr_python(folder / "peer.zarr", batch)
    readers["tensorstore"] = tensorstore(folder / "peer.zarr", batch)
    readers["torch.load per scan"] = torch_files(folder, files, batch)
    for label, voxels, compression in (
        ("float32 lz4", "float32", "lz4"),
        ("float32 zstd", "float32", "zstd"),
        ("int16 lz4", "native", "lz4"),
        ("float32 none", "float32", "none"),
    ):
        store = folder / f"{label.replace(' ', '-')}.zarr"
        ours(folder / "nifti", store, None, voxels, compression)
        for count in sorted({1, threads}):
            readers[f"ours {label}, {count} threads"] = own(store, count)
    readers["memcpy"] = memory(files, batch)

    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, allocator {allocator}")
    versions = software("numpy", "zarr", "numcodecs", "tensorstore", "torch").items()
    print(", ".join(f"{package} {version}" for package, version in versions))
    print(f"batches of {BATCH} out of {scans} x {name}")
    rng = np.random.default_rng(0)
    taken: dict[str, list[float]] = {reader: [] for reader in readers}
    for number in range(rounds + 1):  # the first warms up
        batches = [rng.permutation(scans)[:BATCH].tolist() for _ in range(4)]
        for reader, read in readers.items():
            started = time.perf_counter()
            for rows in batches:
                read(rows)
            if number:
                taken[reader].append((time.perf_counter() - started) / (4 * BATCH))
    peer, copy = taken["zarr-python"], taken["memcpy"]
    print(f"{'':32s} {'median':>10s} {'best':>10s}   times zarr-python   share of memcpy")
    for reader, seconds in taken.items():
        faster = statistics.median(a / b for a, b in zip(peer, seconds, strict=True))
        share = statistics.median(a / b for a, b in zip(copy, seconds, strict=True))
        print(
            f"{reader:32s} {1e3 * statistics.median(seconds):7.2f} ms {1e3 * min(seconds):7.2f} ms   "
            f"{faster:17.1f}   {share:15.0%}"
        )


def zarr_python(store: Path, batch):
    import zarr

    array = zarr.open_array(store, mode="r")

    def read(rows: list[int]) -> None:
        for place, row in enumerate(rows):
            batch[place] = array[row]

    return read


def tensorstore(store: Path, batch):
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store)}}
    array = ts.open(spec, read=True).result()

    def read(rows: list[int]) -> None:
        futures = [array[row].read() for row in rows]
        for place, future in enumerate(futures):
            batch[place] = future.result()

    return read


def torch_files(folder: Path, files: list[Path], batch):
    import numpy as np
    import torch

    cached = []
    for place, file in enumerate(files):
        cached.append(folder / f"{place}.pt")
        torch.save(torch.from_numpy(read_nifti(file).astype(np.float32)), cached[-1])

    def read(rows: list[int]) -> None:
        for place, row in enumerate(rows):
            batch[place] = torch.load(cached[row], weights_only=True).numpy()

    return read


def own(path: Path, threads: int):
    from hpc_brainage.store.reader import Store

    store = Store.open(path)
    (key,) = store.modalities
    room = store.empty(key, BATCH)
    return lambda rows: store.read_into(key, rows, room, threads=threads)


def memory(files: list[Path], batch):
    import numpy as np

    volumes = np.stack([read_nifti(file).astype(np.float32, order="C") for file in files[: 2 * BATCH]])

    def read(rows: list[int]) -> None:
        for place, row in enumerate(rows):
            np.copyto(batch[place], volumes[row % len(volumes)])

    return read


if __name__ == "__main__":
    main()
