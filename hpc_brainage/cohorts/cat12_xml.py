"""One XML file of CAT12: a report on a scan (`cat_NAME.xml`) or its ROI tables (`catROI_NAME.xml`).

Vectors are MATLAB's: `[1 2 3]` in reports, `[1;2;3]` in ROI tables.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from hpc_brainage.cohorts.gathered import Measured
from hpc_brainage.errors import ScanRefused

_LARGEST_BYTES = 1 << 26
# cat_main.m: cerebrospinal fluid, grey and white matter, hyperintensities, stroke lesions; millilitres.
_TISSUES = ("CSF", "GM", "WM", "WMH", "SL")
_RATINGS = ("IQR", "SIQR", "NCR", "ICR", "res_RMS")
_ROI_MEASURES = {
    "Vgm": ("GM_Vol", "cm3"),
    "Vwm": ("WM_Vol", "cm3"),
    "Vcsf": ("CSF_Vol", "cm3"),
    "Tgm": ("GM_Thickness", "mm"),
}


@dataclass(frozen=True)
class Report:
    """A scan's report.

    Parameters
    ----------
    volumes : `vol_TIV`, `vol_CSF`, `vol_GM`, `vol_WM`, and `vol_WMH` and `vol_SL` where they were
        looked for; cm3.
    further : marks of image quality, `cat12_IQR` and so on (1 is best, 6 is worst; lower is better),
        and the revision as `cat12_version`.
    sha256 : of the file.
    """

    volumes: Measured
    further: dict[str, float | str]
    sha256: str


@dataclass(frozen=True)
class RoiTables:
    """A scan's ROI tables.

    Parameters
    ----------
    atlases : by the atlas's name; features are `lHip_GM_Vol`, `lHip_WM_Vol`, `lHip_CSF_Vol` (cm3) and
        `lHip_GM_Thickness` (mm), as far as CAT12 gives them.
    refused : the atlas's name -> what is wrong with its table.
    unknown : measures of a table that are not read.
    sha256 : of the file.
    """

    atlases: dict[str, Measured]
    refused: dict[str, str]
    unknown: tuple[str, ...]
    sha256: str


def read_report(path: Path) -> Report:
    """Read the volumes and marks of a report.

    Raises
    ------
    ScanRefused : no XML that can be trusted, or no volumes in it: CAT12 writes a report of a scan that
        it gave up, too.
    """
    root, digest = _read_xml(path)
    if root.find("subjectmeasures") is None:
        raise ScanRefused(
            "the report has no subjectmeasures: CAT12 has not come to its end", where=path.name
        )
    total = _vector(root, "subjectmeasures/vol_TIV", path)
    tissues = _vector(root, "subjectmeasures/vol_abs_CGW", path)
    if len(total) != 1 or not total[0] > 0:
        raise ScanRefused("vol_TIV is no volume", where=path.name, expected="one number of millilitres")
    if not 3 <= len(tissues) <= len(_TISSUES) or not (tissues[:3] > 0).all():
        raise ScanRefused(
            "vol_abs_CGW is not the volumes of the tissues", where=path.name, expected="[CSF GM WM ...]"
        )
    names = ("vol_TIV", *(f"vol_{tissue}" for tissue in _TISSUES[: len(tissues)]))
    values = np.concatenate([total, tissues]).astype(np.float32)
    further: dict[str, float | str] = {}
    for mark in _RATINGS:
        if root.find(f"qualityratings/{mark}") is not None:
            rating = _vector(root, f"qualityratings/{mark}", path)
            if len(rating) == 1:
                further[f"cat12_{mark}"] = float(rating[0])
    further["cat12_version"] = (root.findtext("software/version_cat") or "").strip()
    return Report(Measured(names, ("cm3",) * len(names), values), further, digest)


def read_roi_tables(path: Path) -> RoiTables:
    """Read the table of every atlas.

    Raises
    ------
    ScanRefused : no XML that can be trusted, or no table in it.
    """
    root, digest = _read_xml(path)
    atlases: dict[str, Measured] = {}
    refused: dict[str, str] = {}
    unknown: list[str] = []
    for atlas in root:
        data = atlas.find("data")
        if data is None:
            continue
        unknown += [f"{atlas.tag}/{measure.tag}" for measure in data if measure.tag not in _ROI_MEASURES]
        try:
            atlases[atlas.tag] = _roi_table(atlas, data, path)
        except ScanRefused as problem:
            refused[atlas.tag] = problem.what
    if not atlases and not refused:
        raise ScanRefused(
            "the file has no ROI table", where=path.name, expected="ATLAS/names and ATLAS/data"
        )
    return RoiTables(atlases, refused, tuple(unknown), digest)


def _roi_table(atlas: ElementTree.Element, data: ElementTree.Element, path: Path) -> Measured:
    regions = [(item.text or "").strip() for item in atlas.findall("names/item")]
    if not regions or "" in regions or len(set(regions)) < len(regions):
        raise ScanRefused("its regions are not named, or two have the same name")
    names: list[str] = []
    units: list[str] = []
    values: list[np.ndarray] = []
    for measure in data:
        if measure.tag not in _ROI_MEASURES:
            continue
        ending, unit = _ROI_MEASURES[measure.tag]
        found = _numbers(measure.text, f"{atlas.tag}/{measure.tag}", path)
        if len(found) != len(regions):
            raise ScanRefused(f"{measure.tag} has {len(found)} values for {len(regions)} regions")
        names += [f"{region}_{ending}" for region in regions]
        units += [unit] * len(regions)
        values.append(found)
    if not values:
        raise ScanRefused("it has none of " + ", ".join(_ROI_MEASURES))
    return Measured(tuple(names), tuple(units), np.concatenate(values).astype(np.float32))


def _read_xml(path: Path) -> tuple[ElementTree.Element, str]:
    """The root of an XML file, and the file's hash; a file that defines entities is not parsed."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ScanRefused(f"{path.stat().st_size} bytes are too many for CAT12's XML", where=path.name)
        raw = path.read_bytes()
    except OSError as problem:
        raise ScanRefused(f"the file cannot be read ({problem.strerror})", where=path.name) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ScanRefused("the file is not UTF-8, as CAT12 writes it", where=path.name) from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # how a small file becomes gigabytes, or reads others
        raise ScanRefused(
            "the file declares a document type or entities, which CAT12 does not", where=path.name
        )
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as problem:
        raise ScanRefused(f"the file is damaged or cut off ({problem})", where=path.name) from None
    return root, hashlib.sha256(raw).hexdigest()


def _vector(root: ElementTree.Element, place: str, path: Path) -> np.ndarray:
    found = root.findall(place)
    if len(found) != 1:
        raise ScanRefused(f"{place} is there {len(found)} times", where=path.name, expected="once")
    return _numbers(found[0].text, place, path)


def _numbers(text: str | None, place: str, path: Path) -> np.ndarray:
    """`[1;NaN;3]`, `[1 2 3]` or `1` as shape (values,), float64."""
    words = re.split(r"[\s;,]+", (text or "").strip().removeprefix("[").removesuffix("]").strip())
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise ScanRefused(f"{place} holds something that is not a number", where=path.name) from None
    if (np.abs(values) > float(np.finfo(np.float32).max)).any():
        raise ScanRefused(f"{place} is infinite", where=path.name)
    return values
