"""How fast a cohort of images becomes a store, beside the loop that everybody writes.

    python tools/bench_convert.py [--images FOLDER] [--scans 40] [--rounds 5] [--folder /tmp]

Three pairs, interleaved round by round in one process with one allocator setting; medians are printed:

- NIfTI, 16-bit integers in .nii.gz, into float32: `zarr[i] = nibabel.load(...).get_fdata()` against
  `convert` with voxels="float32";
- the same images, against `convert` as it is by default, which keeps the integers;
- volumes of OpenBHB, float32 in .npy: `zarr[i] = np.load(...)` against `convert`.

The images are a real one (an anatomical image of the folder, or the MNI152 template that comes with
nilearn) with other noise in each. Both sides read from a warm page cache. Ours also checks, hashes and sums
up every voxel and flushes each file to the disk; the loop does not.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ALLOCATOR = {  # as `brainage convert` sets it for itself, for both sides: page faults are not what is timed
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 35),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
DIFFERENT = 20  # images; more scans are copies of these files
OPENBHB_SHAPE = (121, 145, 121)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--images", type=Path, help="a folder with a T1w image in .nii.gz")
    words.add_argument("--scans", type=int, default=100)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--workers", type=int, default=None, help="by default one for each core")
    words.add_argument("--folder", type=Path, help="where everything is written; removed afterwards")
    words.add_argument("--allocator", choices=("reuse", "default"), default="reuse")
    said = words.parse_args()
    if said.allocator == "reuse" and "MALLOC_TOP_PAD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    with tempfile.TemporaryDirectory(prefix="bench-convert-", dir=said.folder) as folder:
        Bench(Path(folder), said.scans, said.rounds, said.workers).run(said.images, said.allocator)


class Bench:
    def __init__(self, folder: Path, scans: int, rounds: int, workers: int | None) -> None:
        self.folder, self.scans, self.rounds, self.workers = folder, scans, rounds, workers

    def run(self, images: Path | None, allocator: str) -> None:
        from hpc_brainage.provenance import software

        niftis, arrays = self.folder / "nifti", self.folder / "openbhb"
        name, size = write_niftis(niftis, images, self.scans)
        write_arrays(arrays, 3 * self.scans)
        print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, allocator {allocator}")
        print(
            ", ".join(
                f"{package} {version}" for package, version in software("numpy", "zarr", "nibabel").items()
            )
        )
        print(
            f"{self.scans} x {name}, {size / 1e6:.1f} MB as int16; {3 * self.scans} x OpenBHB .npy, 8.5 MB"
        )
        ways: dict[str, Callable[[Path], None]] = {
            "nifti loop": lambda to: loop_over(sorted(niftis.glob("*.nii.gz")), read_nifti, to),
            "nifti ours, float32": lambda to: ours(niftis, to, self.workers, voxels="float32"),
            "nifti ours, native": lambda to: ours(niftis, to, self.workers, voxels="native"),
            "npy loop": lambda to: loop_over(sorted(arrays.rglob("*.npy")), read_npy, to),
            "npy ours": lambda to: ours(arrays, to, self.workers, voxels="native"),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        sizes = {}
        for number in range(self.rounds + 1):  # the first warms up
            for way, work in ways.items():
                to = self.folder / "store.zarr"
                started = time.perf_counter()
                work(to)
                if number:
                    seconds[way].append(time.perf_counter() - started)
                sizes[way] = sum(file.stat().st_size for file in to.rglob("*") if file.is_file())
                if not number and "ours" in way:
                    check(way, to, niftis if "nifti" in way else arrays)
                shutil.rmtree(to)
        print(f"{'':22s} {'median':>9s} {'best':>9s} {'per scan':>9s} {'store':>9s}   times the loop")
        for way, taken in seconds.items():
            loop = seconds[way.split()[0] + " loop"]
            ratio = statistics.median(a / b for a, b in zip(loop, taken, strict=True))
            median = statistics.median(taken)
            scans = 3 * self.scans if way.startswith("npy") else self.scans
            print(
                f"{way:22s} {median:7.2f} s {min(taken):7.2f} s {1e3 * median / scans:6.1f} ms "
                f"{sizes[way] / 1e6:6.0f} MB   {ratio:.1f}"
            )


def write_niftis(folder: Path, images: Path | None, scans: int) -> tuple[str, int]:
    """Write images with other noise within the head in each; returns what they are, and bytes of one."""
    import nibabel
    import numpy as np

    name, head, affine = anatomy(images)
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = [folder / f"sub-{scan:03d}_T1w.nii.gz" for scan in range(scans)]
    for scan, file in enumerate(files):
        if scan >= DIFFERENT:
            shutil.copyfile(files[scan % DIFFERENT], file)
            continue
        noisy = head + (head > 0) * rng.normal(0, 0.03 * head.max(), head.shape)
        voxels = np.asfortranarray(np.clip(noisy * (8000 / head.max()), 0, 32767).astype(np.int16))
        image = nibabel.Nifti1Image(voxels, affine)
        image.header.set_slope_inter(0.001, 0.0)
        image.header.set_xyzt_units("mm")
        with gzip.open(file, "wb", compresslevel=6) as packed:  # as dcm2niix and FSL write them
            packed.write(image.to_bytes())
    return name, voxels.nbytes


def images_below(images: Path | None) -> list[Path]:
    real = os.environ.get("BRAINAGE_REAL_DATA")
    folder = images or (Path(real) / "nifti_samples" if real else None)
    return sorted(folder.glob("*.nii*")) if folder else []


def anatomy(images: Path | None):
    """A real anatomical image in RAS order, with zeros around the head."""
    import nibabel
    import numpy as np

    found = [path for path in images_below(images) if "_t1_" in path.name]
    if found:
        image = nibabel.as_closest_canonical(nibabel.load(found[0]))
    else:
        from nilearn.datasets import load_mni152_template

        image = load_mni152_template(resolution=1)
    name = found[0].name if found else "MNI152 template of nilearn"
    return f"{name} {image.shape}", np.asarray(image.dataobj, dtype=np.float32), image.affine


def write_arrays(folder: Path, scans: int) -> None:
    """Write grey matter maps as OpenBHB has them, with other noise within the brain in each."""
    import numpy as np

    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in OPENBHB_SHAPE), indexing="ij")
    brain = np.exp(-((x**2 + y**2 + z**2) * 2)) * (x**2 + y**2 + z**2 < 0.8)
    (folder / "train").mkdir(parents=True)
    lines = ["participant_id\tage\tsex\tsite\tsplit"]
    names = [f"sub-{100000000000 + scan}_preproc-cat12vbm_desc-gm_T1w.npy" for scan in range(scans)]
    for scan, name in enumerate(names):
        lines.append(f"{100000000000 + scan}\t{20 + scan % 60}\tfemale\t1.0\ttrain")
        if scan >= DIFFERENT:
            shutil.copyfile(folder / "train" / names[scan % DIFFERENT], folder / "train" / name)
            continue
        noisy = brain + (brain > 0) * rng.normal(0, 0.05, OPENBHB_SHAPE)
        values = np.clip(noisy, 0, None).astype(np.float32)[np.newaxis, np.newaxis]
        np.save(folder / "train" / name, values)
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")


def read_nifti(path: Path):
    import nibabel

    return nibabel.load(path).get_fdata()


def read_npy(path: Path):
    import numpy as np

    return np.load(path, allow_pickle=False)[0, 0]


def loop_over(files: list[Path], read: Callable[[Path], object], to: Path) -> None:
    """What everybody writes: one chunk for each scan, zarr's own compression."""
    import zarr

    shape = read(files[0]).shape  # type: ignore[attr-defined]
    array = zarr.create_array(to, shape=(len(files), *shape), chunks=(1, *shape), dtype="float32")
    for place, file in enumerate(files):
        array[place] = read(file)


def ours(source: Path, to: Path, workers: int | None, voxels: str, compression: str = "lz4") -> None:
    from hpc_brainage.cohorts.reading import Reading
    from hpc_brainage.cohorts.sources import open_cohort
    from hpc_brainage.conversion.convert import convert

    cohort = open_cohort(source, reading=Reading(voxels=voxels))
    report = convert(cohort, to, workers=workers, compression=compression)
    report.account_path.unlink()
    assert not report.refused, report.refused[0]


def check(way: str, to: Path, source: Path) -> None:
    """Every value is what the loop would have stored, to the rounding of float32."""
    import numpy as np

    from hpc_brainage.store.reader import Store

    store = Store.open(to)
    (key,) = store.modalities
    files = sorted(source.rglob("*.npy" if "npy" in way else "*.nii.gz"))
    read = read_npy if "npy" in way else read_nifti
    for place in (0, len(files) // 2, len(files) - 1):
        np.testing.assert_allclose(store.read(key, [place])[0], read(files[place]), rtol=2e-7)


if __name__ == "__main__":
    main()
