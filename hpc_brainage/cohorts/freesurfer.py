"""A FreeSurfer subjects directory: what recon-all (or FastSurfer) measured of each subject.

The features have the names that `aparcstats2table` and `asegstats2table` give their columns, in the
newest spelling (see `freesurfer_names`), so that a store made from such tables and one made from the
subjects directory meet the same model:

- `smri/aseg`: `Left-Hippocampus`, ..., then `BrainSegVol`, ..., `EstimatedTotalIntraCranialVol` (mm3)
- `smri/aparc` (Desikan), `smri/aparc_a2009s` (Destrieux), `smri/aparc_dkt`: `lh_insula_thickness` with
  the measures area (mm2), volume (mm3), thickness and thicknessstd (mm), meancurv, gauscurv, foldind and
  curvind, then `lh_WhiteSurfArea_area`, `lh_MeanThickness_thickness`, `BrainSegVolNotVent` and `eTIV`
- `smri/wmparc`: `wm-lh-insula`, ... (mm3), without the whole brain, which `smri/aseg` has

The number of holes in the surfaces before they were mended, and the Euler number (2 - 2 holes), measure
the quality of the image: they become the columns `lhSurfaceHoles`, `rhSurfaceHoles`, `SurfaceHoles`,
`lh_euler` and `rh_euler`. Nothing here says how old somebody is: a subjects directory is joined to a
table of people, or gives a cohort of unknown ages.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.file_identity import Identity
from hpc_brainage.cohorts.freesurfer_names import newest_spelling, scan_of_subject
from hpc_brainage.cohorts.freesurfer_subject import read_subject, stats_files
from hpc_brainage.cohorts.gathered import Gathered
from hpc_brainage.modality import modality_name

_TEMPLATE = re.compile(r"fsaverage.*|.*_average|cvs_avg35.*")
_PARTS_OF_A_SUBJECT = ("stats", "mri", "surf", "scripts")
_ANY_STATS = re.compile(r"(aseg(\+DKT.*)?|[lr]h\.aparc.*)\.stats")


def is_freesurfer(folder: Path) -> bool:
    """Whether a folder is a subjects directory, or one subject: it has statistics of FreeSurfer."""
    return folder.is_dir() and any(
        _ANY_STATS.fullmatch(name)
        for subject in (folder, *_folders(folder))
        for name in stats_files(subject)
    )


def read_freesurfer(folder: Path, name: str | None = None, known_ids: Collection[str] = ()) -> Cohort:
    """Read the statistics of every subject of a subjects directory.

    A subject is one scan, whose identity its folder's name says (`sub-01_ses-2`, `sub-01`, `bert`). Of
    the longitudinal stream the time points are scans, and stand in for their cross-sectional runs;
    templates (`fsaverage`, the base of a person's time points) are none. A modality that a subject lacks
    is absent; one whose file is cut off, or there for one hemisphere only, is refused with the line.

    Parameters
    ----------
    name : put before the names of the modalities: "fs7" makes `smri/fs7_aparc`.
    known_ids : participants of the cohort that this is joined to.

    Raises
    ------
    CohortError : no subject has statistics that can be used.
    """
    subjects, notes = _subjects(folder)
    prefix = f"{modality_name(name)}_" if name else ""
    gathered = Gathered(folder, "smri", "freesurfer")
    claims: dict[Identity, list[str]] = defaultdict(list)
    for subject in subjects:
        claims[scan_of_subject(subject.name, known_ids)].append(subject.name)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    renamed: dict[str, None] = {}
    for subject in subjects:
        scan = scan_of_subject(subject.name, known_ids)
        if len(claims[scan]) > 1:
            if subject.name == claims[scan][0]:
                gathered.refuse(scan, f"several folders are this scan: {', '.join(claims[scan])}")
            continue
        found = read_subject(subject)
        for modality, reason in found.refused.items():
            gathered.refuse(scan, f"{subject.name}/{reason}", prefix + modality)
        if not found.measured and not found.refused:
            gathered.refuse(
                scan,
                f"{subject.name} has no statistics that can be read: recon-all has not come to its end",
            )
        gathered.add(
            scan, {prefix + modality: one for modality, one in found.measured.items()}, found.further
        )
        for modality, kind in found.kinds.items():
            kinds[modality][kind] += 1
        for file, digest in found.hashes.items():
            gathered.has_read(subject / file, f"{subject.name}/{file}", digest)
        renamed.update(dict.fromkeys(found.renamed))
    for modality, files in kinds.items():
        if len(files) > 1:
            shown = ", ".join(f"{file} ({times})" for file, times in sorted(files.items()))
            notes.append(f"smri/{prefix}{modality} comes from files of different names: {shown}")
    if renamed:
        shown = listed([f"{old} is {newest_spelling(old)}" for old in renamed], 3)
        notes.append(f"{len(renamed)} features of older versions have the newest names: {shown}")
    expected = "SUBJECT/stats/aseg.stats, lh.aparc.stats and rh.aparc.stats"
    return gathered.cohort(len(subjects), notes, expected)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _subjects(folder: Path) -> tuple[list[Path], list[str]]:
    """The subjects' folders, and what to know about the folders that are none."""
    if (folder / "stats").is_dir():
        return [folder], []
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in _folders(folder):
        if _TEMPLATE.fullmatch(path.name):
            kinds["template"].append(path)
        elif (path / "base-tps").exists():
            kinds["base"].append(path)
        elif any((path / part).is_dir() for part in _PARTS_OF_A_SUBJECT):
            kinds["subject"].append(path)
        else:
            kinds["other"].append(path)
    long = {path.name.split(".long.")[0] for path in kinds["subject"] if ".long." in path.name}
    kinds["cross"] = [path for path in kinds["subject"] if path.name in long]
    subjects = [path for path in kinds["subject"] if path.name not in long]
    notes = [
        f"{what}: {listed([path.name for path in kinds[kind]], 3)}"
        for kind, what in (
            ("template", "templates, which are no people"),
            ("base", "bases of the longitudinal stream, which are no scans"),
            ("cross", "cross-sectional runs with a longitudinal run beside them, which is taken"),
            ("other", "folders that are no subjects of FreeSurfer"),
        )
        if kinds[kind]
    ]
    if long and any(".long." not in path.name for path in subjects):
        notes.append("longitudinal and cross-sectional runs stand side by side")
    return subjects, notes
