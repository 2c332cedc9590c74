"""Small OpenBHB downloads, written file by file in the layouts that the public releases have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

IDS = ("100053248969", "100106408943", "999999999999")
GRID = (5, 6, 4)
ROI_SHAPES = {"vbm_roi": (284,), "desikan_roi": (7, 68), "destrieux_roi": (7, 148)}
TABLES = {
    "vbm_roi": "cat12vbm_roi/cat12vbm_roi_features.csv",
    "desikan_roi": "freesurfer_roi/desikan_roi_features.csv",
    "destrieux_roi": "freesurfer_roi/destrieux_roi_features.csv",
}
FILES = {
    "vbm_roi": "cat12vbm_desc-gm_ROI",
    "desikan_roi": "freesurfer_desc-desikan_ROI",
    "destrieux_roi": "freesurfer_desc-destrieux_ROI",
    "cat12vbm": "cat12vbm_desc-gm_T1w",
    "quasiraw": "quasiraw_T1w",
    "xhemi": "freesurfer_desc-xhemi_T1w",
}

_HF_COLUMNS = [
    "participant_id",
    "study",
    "sex",
    "age",
    "site",
    "diagnosis",
    "tiv",
    "csfv",
    "gmv",
    "wmv",
    "magnetic_field_strength",
    "acquisition_setting",
    "siteXacq",
    "split",
]
_PEOPLE = (
    "{} 8 female 19.0 48.0 control 1434.36 219.57 678.23 535.88 3.0 1.0 12 train",
    "{} 1 male 61.5 NaN control 1634.10 319.00 600.00 635.00 1.5 2.0 7 internal_test",
    "{} 3 male 8.25 3.0 control 1500.00 200.00 800.00 500.00 NaN 1.0 60 external_test",
)


def values(name: str, person: int) -> np.ndarray:
    """The numbers of one array of one person, positive, in its shape."""
    shape = ROI_SHAPES.get(name, GRID)
    return np.random.default_rng((len(name), person)).uniform(1, 9, shape).astype(np.float32)


def people_tsv(folder: Path, ieee: bool = False, ids: Sequence[str] = IDS) -> None:
    """participants.tsv; the IEEE release has no siteXacq, and no split for training scans."""
    rows = [_HF_COLUMNS, *(line.format(who).split() for line, who in zip(_PEOPLE, ids, strict=False))]
    if ieee:
        rows = [[*row[:-2], row[-1].replace("train", "")] for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join("\t".join("" if cell == "NaN" else cell for cell in row) for row in rows)
    (folder / "participants.tsv").write_text(text + "\n")


def resources(folder: Path) -> Path:
    """resources.json with the small grid, and nothing about the ROI tables: those are official."""
    path = folder / "resource" / "resources.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"shape": [-1, 1, *GRID], "features": None, "channels": ["GM"]}
    path.write_text(json.dumps({"vbm": shape, "quasiraw": shape}))
    return path


def roi_table(
    folder: Path, name: str, people: Iterable[int], split: str = "train", header: str = "{name}_{i}"
) -> Path:
    path = folder / split / "derivatives" / TABLES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    width = int(np.prod(ROI_SHAPES[name]))
    lines = [
        ",".join(["participant_id", "session", *(header.format(name=name, i=i) for i in range(width))])
    ]
    for person in people:
        numbers = [str(number) for number in values(name, person).reshape(-1).tolist()]
        lines.append(",".join([IDS[person], "ses-1", *numbers]))
    path.write_text("\n".join(lines) + "\n")
    return path


def set_cell(table: Path, row: int, column: int, cell: str) -> None:
    """Change one feature of an ROI table; both are counted from 0."""
    lines = table.read_text().splitlines()
    cells = lines[row + 1].split(",")
    cells[column + 2] = cell
    lines[row + 1] = ",".join(cells)
    table.write_text("\n".join(lines) + "\n")


def scan_file(folder: Path, name: str, person: int, array: np.ndarray | None = None) -> Path:
    """One per-scan file, with the leading axes of length 1 that the releases have."""
    folder.mkdir(parents=True, exist_ok=True)
    array = values(name, person) if array is None else array
    path = folder / f"sub-{IDS[person]}_preproc-{FILES[name]}.npy"
    lead = (None,) if name in ("xhemi", "desikan_roi", "destrieux_roi") else (None, None)
    np.save(path, array[lead])
    return path


def scan_folder(folder: Path, person: int, split: str = "train") -> Path:
    return folder / split / "derivatives" / f"sub-{IDS[person]}" / "ses-1"


def huggingface(folder: Path) -> Path:
    """Two people in train, one in val; the last has tables only."""
    people_tsv(folder)
    resources(folder)
    for name in ROI_SHAPES:
        roi_table(folder, name, [0, 1])
        roi_table(folder, name, [2], split="val")
    for person in (0, 1):
        for name in ("cat12vbm", "quasiraw"):
            scan_file(scan_folder(folder, person), name, person)
    return folder


def ieee(folder: Path, inside: str = "") -> Path:
    """The same people and numbers, every array a file of its own in one folder."""
    people_tsv(folder, ieee=True)
    resources(folder)
    for person in (0, 1, 2):
        for name in ROI_SHAPES:
            scan_file(folder / inside, name, person)
        for name in ("cat12vbm", "quasiraw"):
            if person < 2:
                scan_file(folder / inside, name, person)
    return folder
