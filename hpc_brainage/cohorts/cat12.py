"""A folder of CAT12's reports (`cat_NAME.xml`) and ROI tables (`catROI_NAME.xml`).

- `smri/cat12_volumes`: `vol_TIV`, `vol_CSF`, `vol_GM`, `vol_WM`, ... (cm3), out of the reports
- `smri/cat12_neuromorphometrics`, ...: one modality for each atlas, `lHip_GM_Vol` and so on (cm3)

CAT12's marks of image quality become further columns: `cat12_IQR`, `cat12_NCR`, `cat12_ICR` and
`cat12_res_RMS` (1 is best; lower is better). Nothing here says how old somebody is: the folder is joined
to a table of people, or gives a cohort of unknown ages.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from hpc_brainage.cohorts.cat12_xml import read_report, read_roi_tables
from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.file_identity import Identity, identities_of_names
from hpc_brainage.cohorts.gathered import Gathered, Measured
from hpc_brainage.errors import ScanRefused
from hpc_brainage.modality import modality_name

_FILE = re.compile(r"(cat|catROI|catROIs)_(.+)\.xml")


def is_cat12(folder: Path) -> bool:
    """Whether a folder, or one below it, holds reports or ROI tables of CAT12."""
    return folder.is_dir() and any(kind != "catROIs" for kind, _, _ in _files(folder))


def read_cat12(folder: Path, name: str | None = None, known_ids: Collection[str] = ()) -> Cohort:
    """Read every report and ROI table of a folder and those below it.

    A scan is identified by the name of its files: as BIDS spells it, by the known participants, or by
    what differs between the names.

    Parameters
    ----------
    name : put before the names of the modalities instead of "cat12".
    known_ids : participants of the cohort that this is joined to.

    Raises
    ------
    CohortError : no file can be used.
    """
    prefix = f"{modality_name(name or 'cat12')}_"
    files: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    surfaces = 0
    for kind, stem, path in _files(folder):
        surfaces += kind == "catROIs"
        if kind != "catROIs":
            files[stem][kind].append(path)
    stems = sorted(files)
    scans = dict(zip(stems, identities_of_names(stems, known_ids), strict=True))
    claims: dict[Identity, list[Path]] = defaultdict(list)
    for stem in stems:
        claims[scans[stem]] += [path for paths in files[stem].values() for path in paths]
    gathered = Gathered(folder, "smri", "cat12")
    unknown: dict[str, None] = {}
    for stem in stems:
        scan = scans[stem]
        if len(files[stem]) < len(claims[scan]):
            if stem == next(other for other in stems if scans[other] == scan):
                names = listed([path.relative_to(folder).as_posix() for path in claims[scan]], 3)
                gathered.refuse(scan, f"several files claim to be this scan: {names}")
            continue
        measured: dict[str, Measured] = {}
        further: dict[str, float | str] = {}
        for path in files[stem]["cat"]:
            try:
                report = read_report(path)
            except ScanRefused as problem:
                gathered.refuse(scan, f"{problem.where}: {problem.what}", f"{prefix}volumes")
                continue
            measured[f"{prefix}volumes"] = report.volumes
            further = report.further
            gathered.has_read(path, path.name, report.sha256)
        for path in files[stem]["catROI"]:
            try:
                tables = read_roi_tables(path)
            except ScanRefused as problem:
                gathered.refuse(scan, f"{problem.where}: {problem.what}")
                continue
            measured.update({prefix + modality_name(atlas): one for atlas, one in tables.atlases.items()})
            for atlas, reason in tables.refused.items():
                gathered.refuse(scan, f"{path.name}: {reason}", prefix + modality_name(atlas))
            unknown.update(dict.fromkeys(tables.unknown))
            gathered.has_read(path, path.name, tables.sha256)
        gathered.add(scan, measured, further)
    notes = []
    if surfaces:
        notes.append(f"{surfaces} files of ROIs on the surface (catROIs_*.xml) are not read")
    if unknown:
        notes.append(f"measures of ROIs that are not read: {listed(list(unknown))}")
    expected = "report/cat_NAME.xml and label/catROI_NAME.xml, as CAT12 writes them"
    return gathered.cohort(len(claims), notes, expected)


def _files(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Kind of file, name of the scan and path, in a fixed order."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if match := _FILE.fullmatch(name):
                yield match[1], match[2], Path(parent, name)
