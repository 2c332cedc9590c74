"""Trees of BIDS derivatives for tests: as fMRIPrep and XCP-D leave them, small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from nifti_files import voxels, write_image

ROIS = ("LH_Vis_1", "LH_Vis_2", "RH_Cont_1", "RH_Default_3")


def describe(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text(
        json.dumps({"Name": "x", "BIDSVersion": "1.4.0", "DatasetType": "derivative"})
    )
    return folder


def table(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


def write_series(path: Path, seed: int, uncovered: int | None = None) -> Path:
    """ROI time series as XCP-D writes them; a ROI that is not covered is n/a throughout."""
    values = np.random.default_rng(seed).normal(size=(60, len(ROIS)))
    if uncovered is not None:
        values[:, uncovered] = np.nan
    return table(path, **dict(zip(ROIS, values.T, strict=True)))


def write_relmat(path: Path, seed: int, uncovered: int | None = None) -> Path:
    """A correlation matrix as XCP-D writes it: a column `Node`, and n/a for a ROI not covered."""
    values = pd.DataFrame(np.random.default_rng(seed).normal(size=(60, len(ROIS))), columns=list(ROIS))
    if uncovered is not None:
        values.iloc[:, uncovered] = np.nan
    path.parent.mkdir(parents=True, exist_ok=True)
    values.corr().to_csv(path, sep="\t", index_label="Node", na_rep="n/a")
    return path


def tissue_map(seed: int) -> np.ndarray:
    """Probabilities, as a tissue map holds them."""
    return (voxels(seed) / 1000).astype(np.float32)


def fmriprep(folder: Path, people: tuple[str, ...] = ("01", "02", "03"), session: str = "") -> Path:
    """T1w images and tissue maps in the person's own space and in one standard space."""
    describe(folder)
    (folder / "logs").mkdir()
    ses = f"_ses-{session}" if session else ""
    for number, person in enumerate(people):
        anat = folder / f"sub-{person}" / (f"ses-{session}" if session else ".") / "anat"
        start, space = f"sub-{person}{ses}", "space-MNI152NLin2009cAsym_res-2"
        write_image(anat / f"{start}_desc-preproc_T1w.nii.gz", voxels(number, (6, 6, 6 + number)))
        write_image(anat / f"{start}_label-GM_probseg.nii.gz", voxels(number, (6, 6, 6 + number)))
        write_image(anat / f"{start}_{space}_desc-preproc_T1w.nii.gz", voxels(number), orientation="LAS")
        for tissue in ("CSF", "GM", "WM"):
            write_image(anat / f"{start}_{space}_label-{tissue}_probseg.nii.gz", tissue_map(10 + number))
        write_image(anat / f"{start}_{space}_desc-brain_mask.nii.gz", voxels(20 + number))
        func = anat.parent / "func"
        table(func / f"{start}_task-rest_run-1_desc-confounds_timeseries.tsv", csf=[1.0] * 60)
        (folder / f"sub-{person}.html").write_text("")
    return folder


def xcpd(
    folder: Path, people: tuple[str, ...] = ("01", "02", "03"), atlases: tuple[str, ...] = ("Gordon",)
) -> Path:
    """Images, time series and matrices of one run of one session."""
    describe(folder)
    for number, person in enumerate(people):
        start = f"sub-{person}_ses-1"
        visit = folder / f"sub-{person}" / "ses-1"
        write_image(
            visit / "anat" / f"{start}_space-MNI152NLin6Asym_desc-preproc_T1w.nii.gz", voxels(number)
        )
        for atlas in atlases:
            name = f"{start}_task-rest_run-01_space-MNI152NLin6Asym_atlas-{atlas}"
            write_series(visit / "func" / f"{name}_stat-mean_timeseries.tsv", number)
            write_relmat(visit / "func" / f"{name}_stat-pearsoncorrelation_relmat.tsv", number)
            table(visit / "func" / f"{name}_stat-coverage_bold.tsv", Node=list(ROIS), coverage=[1.0] * 4)
        table(visit / "func" / f"{start}_task-rest_run-01_motion.tsv", rot_x=[0.0] * 60)
    return folder


def from_listing(listing: Path, folder: Path) -> Path:
    """A tree of empty files with exactly the names of a real one."""
    for line in listing.read_text().split("\n"):
        path = folder / line.strip()
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder
