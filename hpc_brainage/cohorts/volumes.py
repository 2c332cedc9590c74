"""Images of many scans, one file each, on one grid: a folder, a glob or a list of NIfTI or MGH files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial as bind
from pathlib import Path
from typing import Any, cast

import numpy as np

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.file_identity import identities_of_files, refuse_repeated, scans_of
from hpc_brainage.cohorts.files_meant import files_meant
from hpc_brainage.cohorts.nifti import load_volume, other_grid, volume_header
from hpc_brainage.cohorts.nifti_header import VolumeHeader, by
from hpc_brainage.cohorts.series_file import series_files
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.files import sha256_of
from hpc_brainage.modality import Modality, Role

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
) -> Cohort:
    """Read images as one modality of volumes, one file per scan, all on the grid that most of them have.

    Only the headers are read here; a scan's voxels are read when it is loaded, and checked again
    (`nifti.load_volume`). Grids are compared after all images are turned to RAS order. Of two grids
    that equally many images have, that of the first image counts. Images are turned, never resampled:
    those of another shape, or that lie elsewhere in space, are refused.

    Parameters
    ----------
    path : a folder, a glob, or the files themselves.
    role, name : of the modality.
    known_ids : participants that are expected, to recognise them in file names.

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
    source = path.name if isinstance(path, Path) else name
    identities = identities_of_files(files, [volume_stem(path.name) for path in files], known_ids)
    refuse_repeated(files, identities, "images/*_T1w.nii.gz")
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
    grid = _common_grid(headers, where)
    for place, header in headers.items():
        if reason := other_grid(header, grid.shape, grid.affine):
            refused[place] = f"it is not on the grid of the cohort: {reason}"
    usable = [place for place in headers if place not in refused]
    affine = tuple(tuple(row) for row in grid.affine.tolist())
    modality = Modality(cast(Role, role), name, "volume", grid.shape, (), ("",), affine)
    loaders = [bind(load_volume, files[place], grid.shape, grid.affine) for place in usable]
    account = Account(
        (JoinedSource(source, rows=len(files), matched=len(usable)),),
        tuple(Refusal(*identities[place], source, refused[place]) for place in sorted(refused)),
        _notes(source, [headers[place] for place in usable]),
    )
    return Cohort(
        source,
        scans_of([identities[place] for place in usable]),
        {modality.key: ModalitySource(modality, np.ones(len(usable), bool), lambda row: loaders[row]())},
        account,
        _recipe(files),
    )


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
            hint="register and resample them to one template first",
        )
    return largest[0]


def _notes(source: str, usable: Sequence[VolumeHeader]) -> tuple[str, ...]:
    turned = Counter(header.orientation for header in usable if header.orientation != "RAS")
    if not turned:
        return ()
    shown = ", ".join(f"{times} from {orientation}" for orientation, times in sorted(turned.items()))
    return (f"{source}: {turned.total()} of {len(usable)} images are turned to RAS order: {shown}",)


def _recipe(files: Sequence[Path]) -> dict[str, Any]:
    """Images by name and size: reading them all for a hash would take as long as converting them."""
    listing = [[path.name, path.stat().st_size if path.exists() else None] for path in files]
    return {"reader": "volumes", "scan_files": len(files), "listing_sha256": sha256_of(listing)}
