"""What recon-all (or FastSurfer) measured of one subject, out of the files of its `stats` folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.freesurfer_names import newest_spellings
from hpc_brainage.cohorts.freesurfer_stats import StatsFile, read_stats
from hpc_brainage.cohorts.gathered import Measured
from hpc_brainage.errors import ScanRefused

# Files of each modality, the usual one first: a subject's first one that is there is read.
_SEGMENTATIONS = {
    "aseg": ("aseg.stats", "aseg+DKT.stats", "aseg+DKT.VINN.stats"),
    "wmparc": ("wmparc.stats",),
}
_PARCELLATIONS = {
    "aparc": ("aparc.stats",),
    "aparc_a2009s": ("aparc.a2009s.stats",),
    "aparc_dkt": ("aparc.DKTatlas.stats", "aparc.DKTatlas40.stats", "aparc.DKTatlas.mapped.stats"),
}
_MEASURES = {  # how aparcstats2table calls a column of the file, and its unit
    "SurfArea": ("area", "mm2"),
    "GrayVol": ("volume", "mm3"),
    "ThickAvg": ("thickness", "mm"),
    "ThickStd": ("thicknessstd", "mm"),
    "MeanCurv": ("meancurv", ""),
    "GausCurv": ("gauscurv", ""),
    "FoldInd": ("foldind", ""),
    "CurvInd": ("curvind", ""),
}
# The measures of the whole brain that asegstats2table puts behind the structures.
_WHOLE_BRAIN = """
    lhCortexVol rhCortexVol CortexVol lhCorticalWhiteMatterVol rhCorticalWhiteMatterVol
    CorticalWhiteMatterVol lhCerebralWhiteMatterVol rhCerebralWhiteMatterVol CerebralWhiteMatterVol
    SubCortGrayVol TotalGrayVol SupraTentorialVol SupraTentorialVolNotVent SupraTentorialVolNotVentVox
    ICV eTIV MaskVol BrainVol-to-eTIV BrainSegVol-to-eTIV MaskVol-to-eTIV BrainSegVol BrainSegVolNotVent
    BrainSegVolNotVentSurf
"""
_IN_TABLE = {"ICV": "IntraCranialVol", "eTIV": "EstimatedTotalIntraCranialVol"}
_HOLES = ("lhSurfaceHoles", "rhSurfaceHoles", "SurfaceHoles")
_EULER_LINE = re.compile(r"orig\.nofix lheno\s*=\s*(-?\d+),\s*rheno\s*=\s*(-?\d+)")


@dataclass
class Subject:
    """What one subject's folder holds; files are named from that folder on.

    Parameters
    ----------
    measured : by the modality's name ("aseg", "aparc_dkt").
    refused : the modality's name -> file, line and what is wrong there.
    further : holes and Euler numbers of the surfaces.
    kinds : the modality's name -> which kind of file it comes from.
    hashes : file -> SHA-256, of all that were read.
    renamed : features whose file has an older name than they.
    """

    measured: dict[str, Measured] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    further: dict[str, float | str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    renamed: tuple[str, ...] = ()

    def read(self, path: Path, wanted: tuple[str, ...]) -> StatsFile:
        stats = read_stats(path, wanted)
        self.hashes[f"stats/{path.name}"] = stats.sha256
        return stats


def stats_files(subject: Path) -> set[str]:
    """Names in a subject's `stats` folder; none if it has no such folder, or one that cannot be read."""
    try:
        return {file.name for file in (subject / "stats").iterdir()}
    except OSError:
        return set()


def read_subject(subject: Path) -> Subject:
    """Read the statistics of a subject's folder; a modality without a file is absent."""
    found = Subject()
    folder = subject / "stats"
    there = stats_files(subject)
    for modality, files in (*_SEGMENTATIONS.items(), *_PARCELLATIONS.items()):
        sides = ("",) if modality in _SEGMENTATIONS else ("lh.", "rh.")
        times = {file: sum(f"{side}{file}" in there for side in sides) for file in files}
        file = max(files, key=times.__getitem__)  # the first of those with most hemispheres
        if not times[file]:
            continue
        try:
            if modality == "aseg":
                one = _volumes_of_the_brain(found, folder, file, "brainvol.stats" in there)
            elif modality == "wmparc":
                one = _volumes(found.read(folder / file, ("Volume_mm3",)), {}, found)
            else:
                one = _parcellation(found, folder, file)
        except ScanRefused as problem:
            found.refused[modality] = f"stats/{problem.where}: {problem.what}"
        else:
            found.measured[modality] = one
            found.kinds[modality] = file
    if "lhSurfaceHoles" not in found.further:
        found.further.update(_holes_in_log(subject / "scripts" / "recon-all.log"))
    return found


def _volumes_of_the_brain(found: Subject, folder: Path, file: str, apart: bool) -> Measured:
    """Structures and whole brain; some versions have measures of the whole brain in a file `apart`."""
    stats = found.read(folder / file, ("Volume_mm3",))
    measures = dict(stats.measures)
    if apart:
        for name, value in found.read(folder / "brainvol.stats", ()).measures.items():
            measures.setdefault(name, value)
    if all(side in measures for side in _HOLES[:2]):
        found.further.update(_quality(measures["lhSurfaceHoles"], measures["rhSurfaceHoles"]))
    kept = _WHOLE_BRAIN.split()
    return _volumes(stats, {name: value for name, value in measures.items() if name in kept}, found)


def _volumes(stats: StatsFile, whole_brain: Mapping[str, float], found: Subject) -> Measured:
    names, units, renamed = _names_of_segmentation(stats.structures, tuple(whole_brain))
    found.renamed += renamed
    values = np.concatenate([stats.columns["Volume_mm3"], list(whole_brain.values())])
    return Measured(names, units, values.astype(np.float32))


def _parcellation(found: Subject, folder: Path, file: str) -> Measured:
    """All measures of the left hemisphere, those of the whole brain, then the right hemisphere."""
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    values: list[np.ndarray] = []
    for side in ("lh", "rh"):
        stats = found.read(folder / f"{side}.{file}", ("NumVert", *_MEASURES))
        side_names, side_units, renamed = _names_of_parcellation(side, stats.structures)
        found.renamed += renamed
        names, units = names + side_names, units + side_units
        values += [stats.columns[column] for column in _MEASURES]
        whole = {
            (f"{side}_WhiteSurfArea_area", "mm2"): stats.measures.get("WhiteSurfArea"),
            (f"{side}_MeanThickness_thickness", "mm"): stats.measures.get("MeanThickness"),
            ("BrainSegVolNotVent", "mm3"): stats.measures.get("BrainSegVolNotVent"),
            ("eTIV", "mm3"): stats.measures.get("eTIV"),
        }
        for (name, unit), value in whole.items():
            if value is not None and name not in names:  # the right file says again what the left one says
                names, units = (*names, name), (*units, unit)
                values.append(np.array([value]))
    return Measured(names, units, np.concatenate(values).astype(np.float32))


@lru_cache(maxsize=32)
def _names_of_segmentation(
    structures: tuple[str, ...], whole_brain: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names, units, and which of the names were spelled otherwise."""
    spelled = (*structures, *(_IN_TABLE.get(name, name) for name in whole_brain))
    names, renamed = newest_spellings(spelled)
    return names, tuple("" if name.endswith("-to-eTIV") else "mm3" for name in names), renamed


@lru_cache(maxsize=32)
def _names_of_parcellation(
    side: str, structures: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names, units, and which of the names were spelled otherwise; measure after measure."""
    spelled = [f"{side}_{region}_{measure}" for measure, _ in _MEASURES.values() for region in structures]
    names, renamed = newest_spellings(spelled)
    return names, tuple(unit for _, unit in _MEASURES.values() for _ in structures), renamed


def _quality(left_holes: float, right_holes: float) -> dict[str, float | str]:
    """A closed surface with h holes has the Euler number 2 - 2 h; a perfect one 2."""
    holes = dict(zip(_HOLES, (left_holes, right_holes, left_holes + right_holes), strict=True))
    return {**holes, "lh_euler": 2 - 2 * left_holes, "rh_euler": 2 - 2 * right_holes}


def _holes_in_log(log: Path) -> dict[str, float | str]:
    """What recon-all wrote to its log about the surfaces before they were mended; the last time counts."""
    try:
        lines = _EULER_LINE.findall(log.read_text(encoding="latin-1"))
    except OSError:
        return {}
    if not lines:
        return {}
    left, right = (float(number) for number in lines[-1])
    return _quality(1 - left / 2, 1 - right / 2)
