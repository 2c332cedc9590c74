"""A simulated cohort on disk, in OpenBHB's own layout, for demonstrations and tests.

`simulate_openbhb` writes what an OpenBHB download holds (participants.tsv, qc.tsv, resources, ROI
tables, volumes of a few people) at a size that suits a laptop, and beside it what OpenBHB lacks: the
functional connectivity of four people in five, as `connectomes.tsv`. How the numbers come about, and
what a model could at best recover, is in `simulated_people`; the gaps that were planted are written to
`planted_truth.tsv`, which no reader looks at. Such a cohort tests the machinery; it says nothing about
brains.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.connectivity import edge_names
from hpc_brainage.cohorts.openbhb_names import ARRAYS, OpenBHBArray
from hpc_brainage.cohorts.simulated_images import brain_images, mni_affine
from hpc_brainage.cohorts.simulated_people import (
    EXTERNAL_SCANNERS,
    TRAIN_SCANNERS,
    Measurements,
    connectivity_measurements,
    cortical_measurements,
    draw_people,
    volumetric_measurements,
)
from hpc_brainage.errors import UsageError
from hpc_brainage.files import read_json, sync_directory, write_json

CONNECTOMES = "connectomes.tsv"
MARKER = "simulation.json"
FMRI_ROIS = 20
FMRI_SHARE = 0.8
SMALLEST_COHORT = 20

_VERSION = 1  # of the planted truth: another number, other bytes
_BLOCK = 1024  # people that are measured and written at a time
_SCANNERS = TRAIN_SCANNERS + EXTERNAL_SCANNERS
_TABLE_FOLDER = {
    "vbm_roi": "cat12vbm_roi",
    "desikan_roi": "freesurfer_roi",
    "destrieux_roi": "freesurfer_roi",
}


@dataclass(frozen=True)
class SimulatedCohort:
    """What `simulate_openbhb` wrote.

    Parameters
    ----------
    folder : of the cohort, in OpenBHB's layout.
    connectomes : the functional side table.
    scans, with_fmri, with_volumes : people in all, with functional connectivity, and with images.
    """

    folder: Path
    connectomes: Path
    scans: int
    with_fmri: int
    with_volumes: int


def simulate_openbhb(
    folder: Path,
    *,
    scans: int = 240,
    seed: int = 0,
    volumes: int = 12,
    grid: tuple[int, int, int] = (24, 28, 24),
) -> SimulatedCohort:
    """Write a simulated cohort into `folder`; the same arguments give the same bytes.

    A folder that already holds this very cohort is left as it is. The cohort is written under a
    temporary name and renamed, so that what lies at `folder` is whole.

    Parameters
    ----------
    scans : people, one scan each; at least 20. Memory stays bounded however many they are.
    seed : of people, scanners and noise. The anatomy is the same for all seeds.
    volumes : people with images (`cat12vbm` and `quasiraw`), spread over the cohort.
    grid : voxels of the images along x, y and z; they cover the MNI152 field of view.

    Raises
    ------
    UsageError : a setting that makes no cohort, or a folder that holds anything else.
    """
    if scans < SMALLEST_COHORT:
        raise UsageError(f"{scans} scans are too few to simulate", expected=f"at least {SMALLEST_COHORT}")
    if not 0 <= volumes <= scans:
        raise UsageError(f"{volumes} volumes for {scans} scans", expected="from 0 to the number of scans")
    if len(grid) != 3 or min(grid) < 8:
        raise UsageError(f"a grid of {grid} voxels", expected="three numbers of at least 8")
    if seed < 0:
        raise UsageError(f"a seed of {seed}", expected="0 or a positive number")

    settings = {
        "simulation": _VERSION,
        "scans": scans,
        "seed": seed,
        "volumes": volumes,
        "grid": list(grid),
    }
    people = draw_people(scans, seed)
    with_fmri = np.random.default_rng((seed, 1)).permutation(scans) < round(FMRI_SHARE * scans)
    result = SimulatedCohort(folder, folder / CONNECTOMES, scans, int(with_fmri.sum()), volumes)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if (folder / MARKER).is_file() and read_json(folder / MARKER, UsageError) == settings:
            return result
        raise UsageError(
            "the folder for the simulated cohort already holds something else",
            where=folder,
            expected="a new or empty folder, or the same simulation",
            hint="name another folder, or remove this one",
        )

    folder.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        _write_people(workplace, people, seed)
        _write_resources(workplace / "resource", grid)
        _write_tables(workplace, people, with_fmri, seed)
        _write_volumes(workplace, people, volumes, grid, seed)
        write_json(workplace / MARKER, settings)
        os.chmod(workplace, 0o755)
        os.replace(workplace, folder)
    except BaseException:
        shutil.rmtree(workplace, ignore_errors=True)
        raise
    sync_directory(folder.parent)
    return result


def _structural_age(people: pd.DataFrame) -> np.ndarray:
    return (people["age"] + people["shared_gap"] + people["structural_gap"]).to_numpy()


def _functional_age(people: pd.DataFrame) -> np.ndarray:
    return (people["age"] + people["shared_gap"] + people["functional_gap"]).to_numpy()


def _write_people(root: Path, people: pd.DataFrame, seed: int) -> None:
    """participants.tsv with OpenBHB's 14 columns, qc.tsv, and the gaps that were planted."""
    rng = np.random.default_rng((seed, 2))
    n = len(people)
    brain_age, scanner, tiv = _structural_age(people), people["scanner"].to_numpy(), people["tiv"]
    # Two scanners of one centre share its code; of one study the centre was never told.
    site = np.where(scanner == 4, np.nan, scanner // 2 + 1)
    participants = pd.DataFrame(
        {
            "participant_id": people["participant_id"],
            "study": scanner % 10,
            "sex": np.where(people["male"] == 1, "male", "female"),
            "age": people["age"],
            "site": site,
            "diagnosis": "control",
            "tiv": tiv,
            "csfv": np.round(tiv * (0.16 + 0.0018 * brain_age + rng.normal(0, 0.015, n)), 2),
            "gmv": np.round(tiv * (0.52 - 0.0020 * brain_age + rng.normal(0, 0.015, n)), 2),
            "wmv": np.round(tiv * (0.34 + rng.normal(0, 0.015, n)), 2),
            "magnetic_field_strength": np.where(scanner % 4 == 1, 1.5, 3.0),
            "acquisition_setting": scanner % 2 + 1,
            "siteXacq": scanner,
            "split": people["split"],
        }
    )
    _write_table(root / "participants.tsv", participants)
    quality = pd.DataFrame(
        {
            "participant_id": people["participant_id"],
            "reconall-euler": -2 * rng.poisson(20, n),
            "cat12vbm-ncr": np.round(rng.normal(2.0, 0.2, n), 3),
            "cat12vbm-iqr": np.round(rng.normal(2.2, 0.2, n), 3),
            "quasiraw-corr": np.round(np.clip(rng.normal(0.9, 0.02, n), 0, 1), 3),
        }
    )
    _write_table(root / "qc.tsv", quality)
    planted = people[["participant_id", "shared_gap", "structural_gap", "functional_gap"]]
    _write_table(root / "planted_truth.tsv", planted.round(4))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, sep="\t", index=False, lineterminator="\n")


def _write_resources(folder: Path, grid: tuple[int, int, int]) -> None:
    """resources.json as OpenBHB spells it, with the small grid, and the two template images."""
    import nibabel

    folder.mkdir()
    described: dict[str, Any] = {}
    for array in ARRAYS:
        shape = grid if array.kind == "volume" else array.shape
        described[array.resource] = {
            "shape": [-1, *([1] if array.kind == "volume" or len(shape) == 1 else []), *shape],
            "features": list(array.regions) or None,
            "channels": list(array.channels),
        }
    write_json(folder / "resources.json", described)
    grey, t1 = brain_images(grid, brain_age=30.0, head=1.0)
    for array, image in zip(_volume_arrays(), (grey, t1), strict=True):
        nifti = nibabel.Nifti1Image(image, mni_affine(grid))
        nifti.set_sform(mni_affine(grid), code=4)
        # No time stamp and no file name in the gzip header: the same cohort has the same bytes.
        (folder / array.template).write_bytes(gzip.compress(nifti.to_bytes(), mtime=0))


def _volume_arrays() -> tuple[OpenBHBArray, OpenBHBArray]:
    grey, t1 = (array for array in ARRAYS if array.kind == "volume")
    return grey, t1


def _tables() -> Iterator[tuple[OpenBHBArray, Measurements]]:
    for number, array in enumerate(array for array in ARRAYS if array.table):
        measure = volumetric_measurements if array.resource == "vbm_roi" else cortical_measurements
        yield array, measure(array.regions, number)


def _write_tables(root: Path, people: pd.DataFrame, with_fmri: np.ndarray, seed: int) -> None:
    """The three ROI tables of both splits, and the connectomes; measured in blocks of people."""
    in_train = (people["split"] == "train").to_numpy()
    for number, (array, measurements) in enumerate(_tables()):
        parts = []
        header = [
            "participant_id",
            "session",
            *(f"{array.name}_{i}" for i in range(len(measurements.base))),
        ]
        for split, chosen in (("train", in_train), ("val", ~in_train)):
            folder = root / split / "derivatives" / _TABLE_FOLDER[array.resource]
            folder.mkdir(parents=True, exist_ok=True)
            parts.append((folder / array.table, chosen))
        _write_measurements(
            parts, header, ",", measurements, people, _structural_age(people), (seed, 3, number)
        )

    edges = edge_names([f"roi{number + 1:03d}" for number in range(FMRI_ROIS)])
    measurements = connectivity_measurements(len(edges), table=9)
    parts = [(root / CONNECTOMES, with_fmri)]
    header = ["participant_id", *edges]
    _write_measurements(parts, header, "\t", measurements, people, _functional_age(people), (seed, 3, 9))


def _write_measurements(
    parts: list[tuple[Path, np.ndarray]],
    header: list[str],
    delimiter: str,
    measurements: Measurements,
    people: pd.DataFrame,
    brain_age: np.ndarray,
    seed: tuple[int, ...],
) -> None:
    """Measure everyone block by block and append each block to the tables that its people belong to."""
    import pyarrow as pa
    from pyarrow import csv

    offsets_SF = measurements.scanner_offsets(_SCANNERS, (*seed, 0))
    options = csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
    for path, _ in parts:
        path.write_text(delimiter.join(header) + "\n")
    for start in range(0, len(people), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = people.iloc[rows]
        rng = np.random.default_rng((*seed, 1, start))
        value_NF = measurements.measure(block, brain_age[rows], offsets_SF, rng)
        for path, chosen in parts:
            mine = chosen[rows]
            columns = [pa.array(block["participant_id"].to_numpy()[mine])]
            if "session" in header:
                columns.append(pa.array(["ses-1"] * int(mine.sum())))
            columns += [pa.array(column) for column in value_NF[mine].T]
            with path.open("ab") as file:
                csv.write_csv(pa.table(columns, names=header), file, options)


def _write_volumes(
    root: Path, people: pd.DataFrame, volumes: int, grid: tuple[int, int, int], seed: int
) -> None:
    """Grey-matter and T1-weighted images of `volumes` people, evenly spread over the cohort."""
    rng = np.random.default_rng((seed, 4))
    brain_age = _structural_age(people)
    for row in np.linspace(0, len(people) - 1, volumes).round().astype(int):
        person = people.iloc[row]
        split = "train" if person["split"] == "train" else "val"
        folder = root / split / "derivatives" / f"sub-{person['participant_id']}" / "ses-1"
        folder.mkdir(parents=True)
        head = (person["tiv"] / 1480.0) ** (1 / 3)
        images = brain_images(grid, brain_age[row], head)
        for array, image in zip(_volume_arrays(), images, strict=True):
            noisy = image + (image > 0) * rng.normal(0, 0.02 * image.max(), grid)
            path = folder / f"sub-{person['participant_id']}_preproc-{array.file_suffix}"
            np.save(path, np.clip(noisy, 0, None).astype(np.float32)[None, None], allow_pickle=False)
