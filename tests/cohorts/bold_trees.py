"""Trees as fMRIPrep leaves them after functional preprocessing, with planted signals, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from bids_trees import describe
from nifti_files import write_image

SPACE = "space-MNI152NLin2009cAsym_res-2"
SHAPE = (8, 9, 7)
AFFINE = np.array([[4.0, 0, 0, -16], [0, 4, 0, -20], [0, 0, 4, -12], [0, 0, 0, 1]])
LABELS = (3, 7, 20, 41)
TR = 2.0
VOLUMES = 150
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def write_atlas(path: Path, labels: Sequence[int] = LABELS, far: int | None = None) -> Path:
    """Slabs along the first axis on a grid twice as fine as that of the scans; `far` lies outside them."""
    shape = tuple(2 * length for length in SHAPE)
    fine = AFFINE.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= 1  # the outer corners of both grids meet
    image = np.zeros((shape[0] + 6, *shape[1:]), dtype=np.int16)
    width = shape[0] // len(labels)
    for place, label in enumerate(labels):
        image[place * width : (place + 1) * width, 2:-2, 2:-2] = label
    if far is not None:
        image[-4:, 2:-2, 2:-2] = far
    return write_image(path, image, fine)


def regions_of_grid(labels: Sequence[int] = LABELS) -> np.ndarray:
    """The same slabs on the grid of the scans, told without any resampling."""
    grid = np.zeros(SHAPE, dtype=int)
    width = SHAPE[0] // len(labels)
    for place, label in enumerate(labels):
        grid[place * width : (place + 1) * width, 1:-1, 1:-1] = label
    return grid


def confounds_frame(seed: int, volumes: int = VOLUMES, not_steady: int = 1) -> pd.DataFrame:
    """The columns that all strategies need, as fMRIPrep orders and spells them."""
    rng = np.random.default_rng([seed, 1])
    columns: dict[str, np.ndarray] = {}

    def forms(name: str, values: np.ndarray) -> None:
        derivative = np.concatenate([[np.nan], np.diff(values)])
        columns[name] = values
        columns[f"{name}_derivative1"] = derivative
        columns[f"{name}_derivative1_power2"] = derivative**2
        columns[f"{name}_power2"] = values**2

    for tissue in ("global_signal", "csf", "white_matter"):
        forms(tissue, 5000 + 20 * rng.normal(size=volumes))
    columns["std_dvars"] = np.concatenate([[np.nan], rng.uniform(0.8, 1.2, volumes - 1)])
    columns["framewise_displacement"] = np.concatenate([[np.nan], rng.uniform(0.05, 0.3, volumes - 1)])
    for component in range(5):
        columns[f"a_comp_cor_{component:02d}"] = rng.normal(size=volumes)
    time = np.arange(volumes) + 0.5
    for order in range(1, int(2 * volumes * TR / 128)):
        columns[f"cosine{order - 1:02d}"] = np.sqrt(2 / volumes) * np.cos(np.pi * order * time / volumes)
    for volume in range(not_steady):
        columns[f"non_steady_state_outlier{volume:02d}"] = np.eye(volumes)[volume]
    for axis in MOTION:
        forms(axis, np.cumsum(rng.normal(scale=0.01, size=volumes)))
    return pd.DataFrame(columns)


def write_confounds(path: Path, frame: pd.DataFrame) -> Path:
    """The table and its JSON, of whose components only the first three are of the combined mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, sep="\t", index=False, na_rep="n/a")
    components = [name for name in frame if name.startswith("a_comp_cor")]
    said = {
        name: {"Method": "aCompCor", "Mask": "combined" if place < 3 else "WM", "Retained": True}
        for place, name in enumerate(components)
    }
    path.with_suffix(".json").write_text(json.dumps({"csf": {"Method": "Mean"}, **said}))
    return path


def signals_of(seed: int, volumes: int = VOLUMES, correlation: float = 0.6) -> np.ndarray:
    """Regional signals, shape (volumes, regions): the first two correlate, the others are their own."""
    rng = np.random.default_rng([seed, 2])
    signals = rng.normal(size=(volumes, len(LABELS)))
    signals[:, 1] = correlation * signals[:, 0] + np.sqrt(1 - correlation**2) * signals[:, 1]
    return signals


def write_bold(
    path: Path, signals: np.ndarray, seed: int = 0, affine: np.ndarray = AFFINE, orientation: str = "RAS"
) -> Path:
    """A 4-D image of int16 whose regions carry the signals, at a thousand plus voxel noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 3])
    grid = regions_of_grid()
    series = np.zeros((*SHAPE, len(signals)))
    for place, label in enumerate(LABELS):
        where = grid == label
        series[where] = 1000 + 50 * signals[:, place] + rng.normal(size=(int(where.sum()), len(signals)))
    image = nibabel.Nifti1Image(np.round(series).astype(np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((4.0, 4.0, 4.0, TR))
    codes = nibabel.orientations.axcodes2ornt(tuple(orientation))
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), codes))
    turned.to_filename(path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": TR}))
    return path


def bold_tree(
    folder: Path,
    people: Sequence[str] = ("01", "02", "03"),
    nuisance: float = 0.0,
    confounds: str = "timeseries",
) -> Path:
    """One resting-state run per person: in standard space, in that of the T1w image, and reference images.

    `nuisance` is how much of the white matter's signal all regions carry.
    """
    describe(folder)
    for seed, person in enumerate(people):
        func = folder / f"sub-{person}" / "func"
        start = f"sub-{person}_task-rest"
        frame = confounds_frame(seed)
        tissue = (frame["white_matter"].to_numpy() - 5000) / 20
        signals = signals_of(seed) + nuisance * tissue[:, None]
        write_confounds(func / f"{start}_desc-confounds_{confounds}.tsv", frame)
        write_bold(func / f"{start}_{SPACE}_desc-preproc_bold.nii.gz", signals, seed)
        write_bold(func / f"{start}_space-T1w_desc-preproc_bold.nii.gz", signals, seed)
        write_image(func / f"{start}_{SPACE}_boldref.nii.gz")
        write_image(func / f"{start}_{SPACE}_desc-brain_mask.nii.gz")
    return folder


def bold_of(tree: Path, person: str) -> Path:
    """The image in standard space of a person."""
    return tree / f"sub-{person}" / "func" / f"sub-{person}_task-rest_{SPACE}_desc-preproc_bold.nii.gz"


def confounds_of(tree: Path, person: str) -> Path:
    return tree / f"sub-{person}" / "func" / f"sub-{person}_task-rest_desc-confounds_timeseries.tsv"
