"""What the steps of a conversion take, each beside the usual way of doing it.

    python tools/bench_steps.py [--images FOLDER] [--rounds 7]

On one core, round by round, with each image: unpacking .nii.gz with the standard library against
libdeflate, SHA-256 against XXH3-128, statistics in float64 over the whole image at once against the pass in
blocks that hashes it as well, and the compressions of a store, with and without a byte shuffle. Medians
over the rounds, then over the images.

The images are those of the folder (or of `BRAINAGE_REAL_DATA`), or the MNI152 template that comes with
nilearn; each as 16-bit integers with and without noise in the head.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench_convert import ALLOCATOR, anatomy, images_below


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--images", type=Path, help="a folder with images")
    words.add_argument("--rounds", type=int, default=7)
    said = words.parse_args()
    if "MALLOC_TOP_PAD_" not in os.environ or os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        os.execve(
            sys.executable,
            [sys.executable, *sys.argv],
            {**os.environ, **ALLOCATOR, "OPENBLAS_NUM_THREADS": "1"},
        )
    taken: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    voxels = []
    for integers in as_integers(said.images):
        voxels.append(integers.size)
        ways = ways_of(integers)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(said.rounds + 1):  # the first warms up
            for name, work in ways.items():
                started = time.perf_counter()
                made = work()
                if number:
                    seconds[name].append(time.perf_counter() - started)
                elif name.startswith("pack"):
                    sizes.setdefault(name, []).append(len(made) / integers.nbytes)
        for name, of_image in seconds.items():
            taken.setdefault(name, []).append(statistics.median(of_image) / integers.size * 1e6)
    print(
        f"{time.strftime('%Y-%m-%d')}, {len(voxels)} images of int16, "
        f"{min(voxels):,} to {max(voxels):,} voxels"
    )
    print(f"{'':44s} {'ms per million voxels':>22s} {'(from - to)':>16s}  packed to")
    for name, each in taken.items():
        packed = f"{statistics.median(sizes[name]):.0%}" if name in sizes else ""
        ends = f"({1e3 * min(each):.2f} - {1e3 * max(each):.2f})"
        print(f"{name:44s} {1e3 * statistics.median(each):22.2f} {ends:>16s}  {packed}")


def as_integers(folder: Path | None) -> Iterator:
    """Each image scaled to 16 bits, and once more with noise within the head."""
    import nibabel
    import numpy as np

    opened = (nibabel.load(path) for path in images_below(folder))
    images = [np.asarray(image.dataobj, np.float32) for image in opened if image.ndim == 3] or [
        anatomy(None)[1]
    ]
    rng = np.random.default_rng(0)
    for head in images:
        for noise in (0.0, 0.03):
            noisy = head + (head > 0) * rng.normal(0, noise * head.max(), head.shape)
            yield np.ascontiguousarray(np.clip(noisy * (8000 / head.max()), 0, 32767).astype(np.int16).T)


def ways_of(integers) -> dict[str, Callable[[], object]]:
    import numpy as np
    import xxhash
    from numcodecs import Blosc

    from hpc_brainage.cohorts.gunzip import gunzip
    from hpc_brainage.store.shards import BLOCK_BYTES, LEVELS
    from hpc_brainage.store.survey import survey

    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is used as long as the ways are
    file.write(gzip.compress(integers.tobytes(), 6))
    file.flush()

    def stream() -> bytes:
        file.seek(0)
        with gzip.open(file) as unpacked:
            return unpacked.read()

    def at_once() -> None:
        values = integers.astype(np.float64)
        values.mean(), values.var(), values.min(), values.max()

    content = integers.reshape(-1).view(np.uint8).data
    ways: dict[str, Callable[[], object]] = {
        "unpack: gzip of the standard library": stream,
        "unpack: libdeflate": lambda: gunzip(file.fileno(), integers.nbytes),
        "hash: SHA-256": lambda: hashlib.sha256(content).digest(),
        "hash: XXH3-128": lambda: xxhash.xxh3_128(content).digest(),
        "statistics: float64, whole image": at_once,
        "statistics and hash: in blocks": lambda: survey(integers, 0.5, 1.0),
    }
    for name, level in LEVELS.items():
        for shuffle, said in ((Blosc.NOSHUFFLE, ""), (Blosc.SHUFFLE, ", shuffled")):
            codec = Blosc(name, level, shuffle, BLOCK_BYTES[name])
            ways[f"pack: {name} {level}{said}"] = lambda codec=codec: codec.encode(integers)
    return ways


if __name__ == "__main__":
    main()
