"""Images of many scans, one file each, on one grid: a folder, a glob or a list of NIfTI or MGH files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.file_identity import (
    identities_of_files,
    refuse_repeated,
    scans_of,
    told_apart_by_kind,
)
from hpc_brainage.cohorts.files_meant import files_meant
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.nifti import load_integers, load_volume, other_grid, volume_header
from hpc_brainage.cohorts.nifti_header import VolumeHeader, by
from hpc_brainage.cohorts.reading import Reading, Voxels
from hpc_brainage.cohorts.resample import load_resampled, open_template
from hpc_brainage.cohorts.series_file import series_files
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.files import sha256_of
from hpc_brainage.modality import NUMBERS, Modality, Role, ScaledIntegers, Stored

_SUFFIX = re.compile(r"\.(nii|mgz|mgh)$|\.(nii|mgh)\.gz$", re.IGNORECASE)
_CIFTI = re.compile(r"\.[dp](conn|label|scalar|tseries)\w*\.nii$", re.IGNORECASE)  # no volumes


def volume_files(where: Path | Sequence[Path]) -> list[Path]:
    """Image files by their names, sorted: of a folder and those below it, a glob or a list.

    Links to content that was never fetched are among them, so that they are refused and not forgotten.
    """
    return sorted(path for path in files_meant(where) if is_volume_name(path.name) and not path.is_dir())


def is_volume_name(name: str) -> bool:
    """Whether a file's name says that it holds a volume."""
    return bool(_SUFFIX.search(name)) and not _CIFTI.search(name) and not name.startswith(".")


def volume_stem(name: str) -> str:
    """An image's file name without the endings of its format."""
    return _SUFFIX.sub("", name)


def is_volumes(path: Path, role: str | None = None) -> bool:
    """Whether a folder, a glob or a file holds images, and not rather tables or ROI time series.

    A folder that holds both is what it has more files of, unless it is added as "fmri": then series come
    first. A folder with a participants table is more than images: there the table is the source, and the
    images are added to it.
    """
    images = volume_files(path)
    if not images or (role is None and path.is_dir() and any(path.glob("participants.*"))):
        return False
    if not path.is_dir():
        return True
    others = len(series_files(path))
    return not others if role == "fmri" else len(images) > others


def read_volumes(
    path: Path | Sequence[Path],
    role: str = "smri",
    name: str = "t1w",
    known_ids: Collection[str] | None = None,
    reading: Reading | None = None,
) -> Cohort:
    """Read images as one modality of volumes, one file per scan, all on the grid that most of them have.

    Only the headers are read here; a scan's voxels are read when it is loaded, and checked again
    (`nifti.load_volume`). Grids are compared after all images are turned to RAS order. Of two grids
    that equally many images have, that of the first image counts. Images of another shape, or that lie
    elsewhere in space, are refused, unless a template is named whose grid all of them are brought onto.
    Voxels that are integers of the same type in all images are kept as they are.

    Parameters
    ----------
    path : a folder, a glob, or the files themselves.
    role, name : of the modality.
    known_ids : participants that are expected, to recognise them in file names.
    reading : its `voxels` and `resample` count here.

    Raises
    ------
    CohortError : no image, two images of one scan, no usable one, or several of which no two share a
        grid.
    """
    files = volume_files(path)
    where = path if isinstance(path, Path) else f"{len(files)} files"
    if not files:
        raise CohortError(
            "there are no images", where=where, expected="one .nii, .nii.gz, .mgz or .mgh file per scan"
        )
    reading = reading or Reading()
    source = path.name if isinstance(path, Path) else name
    identities = identities_of_files(files, [volume_stem(path.name) for path in files], known_ids)
    refuse_repeated(files, identities, "images/*_T1w.nii.gz")
    headers, refused = _read_headers(files, where)
    template = open_template(reading.resample) if reading.resample else None
    grid = template.grid if template else _common_grid(headers, where)
    elsewhere = {
        place: reason
        for place, header in headers.items()
        if (reason := other_grid(header, grid.shape, grid.affine))
    }
    if template is None:
        refused |= {
            place: f"it is not on the grid of the cohort: {reason}" for place, reason in elsewhere.items()
        }
    usable = [place for place in headers if place not in refused]
    types = Counter(headers[place].numbers for place in usable)
    stored = _kept_as(types, "float32" if template else reading.voxels)

    def load(row: int) -> np.ndarray | ScaledIntegers:
        place = usable[row]
        if template and place in elsewhere:
            return load_resampled(files[place], template)
        if stored.numbers == "float32":
            return load_volume(files[place], grid.shape, grid.affine)
        return load_integers(files[place], grid.shape, grid.affine, stored.numbers)

    notes = _turned([headers[place] for place in usable])
    if alike := told_apart_by_kind([identities[place][0] for place in usable]):
        notes.append(
            f"{len(alike)} images are told apart by a kind of image only: {listed(alike, 3)}; if they are "
            "of one person, choose one kind with a glob, as in 'images/*_t1*.nii.gz'"
        )
    if template:
        moved = f"{len(elsewhere)} of {len(usable)} images are resampled"
        notes.append(f"{moved} to the {by(grid.shape)} voxels of {template.name}")
    else:
        notes += _advice(len(elsewhere), len(headers), types, reading)
    account = Account(
        (JoinedSource(source, rows=len(files), matched=len(usable)),),
        tuple(Refusal(*identities[place], source, refused[place]) for place in sorted(refused)),
        tuple(f"{source}: {note}" for note in notes),
    )
    affine = tuple(tuple(row) for row in grid.affine.tolist())
    modality = Modality(cast(Role, role), name, "volume", grid.shape, (), ("",), affine)
    present = np.ones(len(usable), dtype=bool)
    fingerprint = fingerprint_of(files[place] for place in usable)
    return Cohort(
        source,
        scans_of([identities[place] for place in usable]),
        {modality.key: ModalitySource(modality, present, load, fingerprint, stored)},
        account,
        _recipe(files) | (template.record() if template else {}),
    )


def _read_headers(files: Sequence[Path], where: object) -> tuple[dict[int, VolumeHeader], dict[int, str]]:
    """Headers, and reasons why there is none, by the place of the file."""
    refused: dict[int, str] = {}
    headers: dict[int, VolumeHeader] = {}
    for place, file in enumerate(files):
        try:
            headers[place] = volume_header(file)
        except ScanRefused as problem:
            refused[place] = problem.what
    if not headers:
        raise CohortError(
            f"none of the {len(files)} images can be used",
            where=where,
            hint=f"the first was refused because: {refused[0]}",
        )
    return headers, refused


def _kept_as(types: Counter[str], voxels: Voxels) -> Stored:
    """As the images are, if all are of one type that a store knows; else as float32."""
    only = next(iter(types)) if len(types) == 1 else "float32"
    return Stored(only if voxels == "native" and only in NUMBERS else "float32", "zyx")


def _common_grid(headers: dict[int, VolumeHeader], where: object) -> VolumeHeader:
    """The header of the first image of the largest group that lies on one grid."""
    groups: list[list[VolumeHeader]] = []
    for header in headers.values():
        fitting = (group for group in groups if other_grid(header, group[0].shape, group[0].affine) is None)
        group = next(fitting, None)
        if group is None:
            groups.append([header])
        else:
            group.append(header)
    largest = max(groups, key=len)
    if len(largest) == 1 < len(headers):
        shapes = ", ".join(by(group[0].shape) for group in groups[:3])
        raise CohortError(
            f"no two of the {len(headers)} images lie on one grid ({shapes}, ...)",
            where=where,
            expected="images in a standard space, such as MNI152NLin2009cAsym",
            hint="register them to one template first; if they are, --resample TEMPLATE brings them onto "
            "one grid",
        )
    return largest[0]


def _turned(usable: Sequence[VolumeHeader]) -> list[str]:
    turned = Counter(header.orientation for header in usable if header.orientation != "RAS")
    if not turned:
        return []
    shown = ", ".join(f"{times} from {orientation}" for orientation, times in sorted(turned.items()))
    return [f"{turned.total()} of {len(usable)} images are turned to RAS order: {shown}"]


def _advice(elsewhere: int, headers: int, types: Counter[str], reading: Reading) -> list[str]:
    """What would take images of other grids, and what keeps integers from being kept as integers."""
    notes = []
    if elsewhere:
        notes.append(
            f"{elsewhere} of {headers} images lie on other grids; if all are registered to one space, "
            "--resample TEMPLATE brings them onto one grid"
        )
    if len(types) > 1 and reading.voxels == "native":
        shown = ", ".join(f"{times} {numbers}" for numbers, times in sorted(types.items()))
        notes.append(f"voxels are kept as float32, since the images hold different types: {shown}")
    return notes


def _recipe(files: Sequence[Path]) -> dict[str, Any]:
    """Images by name and size: reading them all for a hash would take as long as converting them."""
    listing = [[path.name, path.stat().st_size if path.exists() else None] for path in files]
    return {"reader": "volumes", "scan_files": len(files), "listing_sha256": sha256_of(listing)}
