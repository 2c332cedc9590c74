"""What lies in an OpenBHB download: the files of each array, and what resources.json says about them.

Two public layouts exist. The HuggingFace tree has `{train,val}/derivatives/sub-<id>/ses-1/` and ROI
tables of all people; the IEEE DataPort archives unpack to flat folders with one `.npy` per person and
array, ROI included; in-house copies keep all of them in one `data/`. The files have the same names in
all of them, so they are found by name, at whatever depth.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpc_brainage.cohorts.openbhb_names import ARRAYS, OpenBHBArray, array_modality
from hpc_brainage.errors import CohortError
from hpc_brainage.files import read_json
from hpc_brainage.modality import Modality

PARTICIPANTS = "participants.tsv"

_SCAN_FILE = re.compile(r"sub-(?P<id>[^_]+)(?:_ses-(?P<session>[^_]+))?_preproc-(?P<rest>.+\.npy)")
_BY_SUFFIX = {array.file_suffix: array.name for array in ARRAYS}
_BY_TABLE = {array.table: array.name for array in ARRAYS if array.table}
_NOT_PREPROCESSED = ("rawdata", "resource")
_RESOURCES = ("resource/resources.json", "resources.json")

# The affine of quasiraw_space-MNI152_desc-brain_T1w.nii.gz: FSL's MNI152 grid of 1 mm.
_QUASIRAW_AFFINE = (
    (-1.0, 0.0, 0.0, 90.0),
    (0.0, 1.0, 0.0, -126.0),
    (0.0, 0.0, 1.0, -72.0),
    (0.0, 0.0, 0.0, 1.0),
)


@dataclass
class Found:
    """The preprocessed files below a folder.

    Parameters
    ----------
    scans : array name -> (participant, session or "") -> the files that claim to be it.
    tables : array name -> its ROI tables.
    unknown : names of `sub-*_preproc-*.npy` files that are none of OpenBHB's arrays.
    """

    scans: dict[str, dict[tuple[str, str], list[Path]]] = field(default_factory=dict)
    tables: dict[str, list[Path]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def has_openbhb_files(folder: Path) -> bool:
    """Whether a file with one of OpenBHB's names, or its resources.json, lies below the folder."""
    if (folder / _RESOURCES[0]).is_file():
        return True
    return any(_scan_file(path) or path.name in _BY_TABLE for path in _files(folder))


def find_files(folder: Path) -> Found:
    """Find the preprocessed files below a folder, in a stable order."""
    scans: dict[str, dict[tuple[str, str], list[Path]]] = defaultdict(lambda: defaultdict(list))
    tables: dict[str, list[Path]] = defaultdict(list)
    found = Found()
    for path in _files(folder):
        if path.name in _BY_TABLE:
            tables[_BY_TABLE[path.name]].append(path)
        elif match := _scan_file(path):
            session = match["session"] or _session_of_folder(path)
            if array := _BY_SUFFIX.get(match["rest"]):
                scans[array][match["id"], session].append(path)
            else:
                found.unknown.append(path.name)
    found.scans = {name: dict(files) for name, files in scans.items()}
    found.tables = dict(tables)
    return found


def resources_file(folder: Path) -> Path | None:
    """Where resources.json lies, or None."""
    return next((folder / name for name in _RESOURCES if (folder / name).is_file()), None)


def describe_array(folder: Path, array: OpenBHBArray) -> Modality:
    """The modality that an array is in this download.

    Shape, regions and channels come from resources.json where it is there, the affine from the
    template image in `resource/`; otherwise they are those of the official release.

    Raises
    ------
    CohortError : resources.json contradicts itself, or a template does not fit it.
    """
    shape, regions, channels = array.shape, array.regions, array.channels
    path = resources_file(folder)
    described = read_json(path, CohortError) if path else {}
    if not isinstance(described, dict):
        raise _contradiction(path, array, "is missing: the file is no JSON object")
    if (entry := described.get(array.resource)) is not None:
        try:
            numbers = tuple(int(length) for length in entry["shape"][1:])
            while len(numbers) > len(array.shape) and numbers[0] == 1:
                numbers = numbers[1:]
            shape = numbers
            regions = tuple(str(name) for name in entry["features"] or ())
            channels = tuple(str(name) for name in entry["channels"] or ())
        except (KeyError, TypeError, ValueError):
            raise _contradiction(path, array, "lacks shape, features or channels") from None
    if len(shape) != len(array.shape) or min(shape) < 1:
        raise _contradiction(path, array, f"has shape {shape}")
    if array.kind == "volume":
        fits = True
    elif array.kind == "surface":
        fits = shape[0] == len(channels)
    elif len(shape) == 1:
        fits = shape == (len(regions),) and len(channels) == 1
    else:
        fits = shape == (len(channels), len(regions))
    if not fits:
        named = f"{len(channels)} channels and {len(regions)} regions"
        raise _contradiction(path, array, f"has shape {shape}, but names {named}")
    affine = _affine(folder, array, shape) if array.kind == "volume" else None
    return array_modality(replace(array, shape=shape, regions=regions, channels=channels), affine)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted; linked folders are entered once."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            name for name in folders if name not in _NOT_PREPROCESSED and not name.startswith(".")
        )
        for name in sorted(files):
            yield Path(parent, name)


def _scan_file(path: Path) -> re.Match[str] | None:
    return _SCAN_FILE.fullmatch(path.name)


def _session_of_folder(path: Path) -> str:
    return path.parent.name.removeprefix("ses-") if path.parent.name.startswith("ses-") else ""


def _affine(
    folder: Path, array: OpenBHBArray, shape: tuple[int, ...]
) -> tuple[tuple[float, ...], ...] | None:
    path = folder / "resource" / array.template
    if not path.is_file():
        official = array.name == "quasiraw" and shape == array.shape
        return _QUASIRAW_AFFINE if official else None
    import nibabel

    try:
        template = nibabel.load(path)
        affine, grid = template.affine, template.shape[:3]  # type: ignore[attr-defined]
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as problem:
        raise CohortError(f"a template image cannot be read ({problem})", where=path) from None
    if grid != shape:
        raise CohortError(
            f"a template image has the grid {grid}",
            where=path,
            expected=f"{shape}, as resources.json or the official release has it",
        )
    return tuple(tuple(float(number) for number in row) for row in affine)


def _contradiction(path: Path | None, array: OpenBHBArray, what: str) -> CohortError:
    return CohortError(
        f"the entry {array.resource!r} of resources.json {what}",
        where=path,
        expected=f"something like shape {[-1, *array.shape]}, and a name for each region and channel",
        hint="download resources.json again, or remove it to use the official names",
    )
