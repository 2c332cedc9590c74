"""BOLD series as fMRIPrep leaves them in standard space, as connectivity between an atlas's regions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial as bind
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.atlas import Atlas
from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.confounds import Cleaning, cleaning_of, confounds_files
from hpc_brainage.cohorts.connectivity import FEWEST_VOLUMES, dead_rois
from hpc_brainage.cohorts.edges import SeriesOfScans, Survey
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.file_identity import identities_of_files, refuse_repeated
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.nifti_series import SeriesHeader, region_means, series_header
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.series_file import Series
from hpc_brainage.cohorts.volumes import volume_stem
from hpc_brainage.errors import ScanRefused

_REMOVED = 1e-6  # of what a region varied by: what is left after such a cleaning is rounding


def read_bold(files: Sequence[Path], role: str, name: str | None, reading: Reading) -> Cohort:
    """Read BOLD series as one modality of edges between the regions of an atlas.

    A region's time series is the mean over its voxels (nearest neighbour, atlas to the grid of the
    scan), cleaned as `confounds.cleaning_of` says; edges are those of ROI time series. Here only headers
    and confounds are read, and a scan's volumes when it is loaded; "tangent" reads everything here.

    A scan is refused if its image or confounds cannot be used, or if what is left once regressors are
    removed is worth fewer than `connectivity.FEWEST_VOLUMES` volumes. A region without a voxel or a
    signal in a scan has missing edges there, as a dead ROI has.

    Parameters
    ----------
    files : images, one per scan, all in the space of the atlas.
    role, name : of the modality; it is called after the atlas if `name` is None.
    reading : the atlas, the strategy for confounds, and the kind of connectivity.

    Raises
    ------
    UsageError : the atlas cannot be used.
    CohortError : its names cannot be read, two files of one scan, or no usable one.
    """
    from importlib.metadata import version

    assert reading.atlas is not None, "BOLD series become edges by an atlas"
    atlas = Atlas(reading.atlas.expanduser())
    stems = [volume_stem(path.name) for path in files]
    identities = identities_of_files(files, stems)
    refuse_repeated(files, identities, "folder/**/*_space-X_desc-preproc_bold.nii.gz")
    scans = [_Scan(path, atlas, reading) for path in files]
    source = name or atlas.name
    if reading.connectivity == "tangent":
        survey = Survey.look_through([scan.series for scan in scans], keep=True)
    else:
        survey = _glance(scans, atlas)
    recipe = {
        "reader": "bold",
        "connectivity": reading.connectivity,
        "scan_files": len(files),
        "atlas": {"name": atlas.name, "sha256": atlas.sha256, "regions": len(atlas.regions)},
        "confounds": reading.confounds,
        "nilearn": version("nilearn"),
    }
    tables = [table for path in files for table in confounds_files(path) if table.is_file()]
    return SeriesOfScans(
        source, files[0].parent, identities, survey, [bind(_values, scan) for scan in scans]
    ).as_edges(
        role,
        name or atlas.name,
        reading.connectivity,
        recipe,
        fingerprint=fingerprint_of([*files, *tables]),
        notes=_notes([scans[place] for place in survey.usable], atlas),
    )


class _Scan:
    """One image with its confounds: looked at by `prepare`, read by `series`."""

    def __init__(self, path: Path, atlas: Atlas, reading: Reading) -> None:
        self.path = path
        self.seconds: float | None = None
        self._atlas = atlas
        self._strategy = reading.confounds

    def prepare(self) -> tuple[SeriesHeader, Cleaning]:
        """Check header and confounds; raises `ScanRefused`."""
        header = series_header(self.path)
        self.seconds = _repetition_time(self.path) or header.seconds
        cleaning = cleaning_of(self.path, self._strategy, header.volumes, self.seconds)
        if cleaning.volumes_left < FEWEST_VOLUMES:
            raise ScanRefused(
                f"after cleaning it is worth {max(cleaning.volumes_left, 0)} volumes "
                f"({cleaning.describe()}): at least {FEWEST_VOLUMES} are needed",
                where=self.path,
            )
        return header, cleaning

    def series(self) -> Series:
        """Cleaned time series (kept volumes, regions); 0 throughout where a region has no signal."""
        header, cleaning = self.prepare()
        regions = self._atlas.on_grid(header.shape, header.affine)
        if not regions.any():
            raise ScanRefused("no region of the atlas lies within the image", where=self.path)
        found = region_means(self.path, regions)
        means = np.zeros((len(found), len(self._atlas.regions)))
        means[:, : found.shape[1]] = found
        raw = means[cleaning.kept]
        dead = dead_rois(raw)
        cleaned = cleaning.clean(means)
        dead |= cleaned.std(axis=0) <= _REMOVED * raw.std(axis=0)
        cleaned[:, dead] = 0.0
        if (~dead).sum() < 2:
            raise ScanRefused(f"{int(dead.sum())} of {len(dead)} regions have no signal", where=self.path)
        return Series(self._atlas.regions, cleaned)


def _values(scan: _Scan) -> np.ndarray:
    return scan.series().values


def _glance(scans: Sequence[_Scan], atlas: Atlas) -> Survey:
    """Which scans are usable as far as headers and confounds tell."""
    usable: list[int] = []
    refused: dict[int, str] = {}
    for place, scan in enumerate(scans):
        try:
            scan.prepare()
            usable.append(place)
        except ScanRefused as problem:
            refused[place] = problem.what
    return Survey(atlas.regions, usable, refused)


def _repetition_time(path: Path) -> float | None:
    """Seconds between two volumes from the JSON beside an image, if it says so."""
    try:
        said = json.loads(path.with_name(volume_stem(path.name) + ".json").read_text(encoding="utf-8"))
        seconds = float(said["RepetitionTime"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _notes(usable: Sequence[_Scan], atlas: Atlas) -> list[str]:
    notes = []
    if len(atlas.unnamed) == len(atlas.labels):
        notes.append("no table of names lies beside the atlas, so its regions are called roi_<label>")
    elif atlas.unnamed:
        notes.append(
            f"{len(atlas.unnamed)} regions have no name in the table beside the atlas and are called "
            f"{listed([f'roi_{label}' for label in atlas.unnamed], 3)}"
        )
    times = Counter("unknown" if scan.seconds is None else f"{scan.seconds:.4g} s" for scan in usable)
    if len(times) > 1:
        shown = ", ".join(f"{time} in {number}" for time, number in sorted(times.items()))
        notes.append(f"scans differ in their repetition time: {shown}")
    return notes
