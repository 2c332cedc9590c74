"""Subjects directories shaped exactly as FreeSurfer 5.3, 6.0, 7.0 and FastSurfer write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

DESIKAN = ("bankssts", "cuneus", "insula")
DESTRIEUX = ("G_and_S_frontomargin", "G_cuneus", "S_oc_middle_and_Lunatus")
DKT = ("cuneus", "insula")
ASEG = ("Left-Lateral-Ventricle", "Left-Thalamus", "Left-vessel", "Right-Hippocampus", "CC_Anterior")
WHOLE_BRAIN = (
    ("BrainSeg", "BrainSegVol", "Brain Segmentation Volume", 1.1e6),
    ("BrainSegNotVent", "BrainSegVolNotVent", "Brain Segmentation Volume Without Ventricles", 1.05e6),
    ("VentricleChoroidVol", "VentricleChoroidVol", "Volume of ventricles and choroid plexus", 9e3),
    ("CerebralWhiteMatter", "CerebralWhiteMatterVol", "Total cerebral white matter volume", 4.5e5),
)
HEADERS = "StructName NumVert SurfArea GrayVol ThickAvg ThickStd MeanCurv GausCurv FoldInd CurvInd"
VERTICES = 1000


def write_subject(
    folder: Path,
    version: str = "7.0",
    seed: int = 0,
    holes: tuple[int, int] = (5, 7),
    **regions: Sequence[str],
) -> Path:
    """One subject with statistics of everything; `regions` stand in for those above, by file name."""
    stats = folder / "stats"
    stats.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for side in ("lh", "rh"):
        for atlas, names in parcellations(version).items():
            text = parcellation(side, regions.get(atlas.replace(".", "_"), names), version, rng)
            (stats / f"{side}.{atlas}.stats").write_text(text)
    if version == "fastsurfer":
        names = (*(name for name in ASEG if name != "Left-vessel"), "ctx-lh-cuneus")
        (stats / "aseg+DKT.stats").write_text(segmentation(names, [], rng, decimals=3))
        return folder
    thalamus = "Left-Thalamus" if version >= "7" else "Left-Thalamus-Proper"
    names = [thalamus if name == "Left-Thalamus" else name for name in regions.get("aseg", ASEG)]
    measures = [*whole_brain(version), *surface_holes(*holes), total_volume(version)]
    (stats / "aseg.stats").write_text(segmentation(names, measures, rng))
    (stats / "wmparc.stats").write_text(
        segmentation(["wm-lh-cuneus", "wm-rh-insula"], [total_volume(version)], rng)
    )
    return folder


def parcellations(version: str) -> dict[str, Sequence[str]]:
    dkt = {"5.3": "aparc.DKTatlas40", "fastsurfer": "aparc.DKTatlas.mapped"}.get(version, "aparc.DKTatlas")
    destrieux = [name.replace("_and_", "&") for name in DESTRIEUX] if version == "6.0" else DESTRIEUX
    every = {"aparc": DESIKAN, "aparc.a2009s": destrieux, dkt: DKT}
    return {dkt: DKT} if version == "fastsurfer" else every


def whole_brain(version: str) -> list[str]:
    rename = ("CerebralWhiteMatter", "CorticalWhiteMatter") if version == "5.3" else ("", "")
    return [
        f"# Measure {name.replace(*rename)}, {short.replace(*rename)}, {words}, {value:f}, mm^3"
        for name, short, words, value in WHOLE_BRAIN
        if name != "VentricleChoroidVol" or version >= "7"
    ]


def surface_holes(left: int, right: int) -> list[str]:
    return [
        f"# Measure {side}SurfaceHoles, {side}SurfaceHoles, Number of defect holes, {holes}, unitless"
        for side, holes in (("lh", left), ("rh", right), ("", left + right))
    ]


def total_volume(version: str) -> str:
    if version == "5.1":
        return "# Measure IntraCranialVol, ICV, Intracranial Volume, 1500000.5, mm^3"
    words = "Estimated Total Intracranial Volume"
    return f"# Measure EstimatedTotalIntraCranialVol, eTIV, {words}, 1500000.500000, mm^3"


def parcellation(side: str, regions: Sequence[str], version: str, rng: np.random.Generator) -> str:
    lines = [
        "# Table of FreeSurfer cortical parcellation anatomical statistics ",
        f"# hemi {side}",
        f"# Measure Cortex, NumVert, Number of Vertices, {VERTICES * len(regions)}, unitless",
        f"# Measure Cortex, WhiteSurfArea, White Surface Total Area, {700 * len(regions)}, mm^2",
        "# Measure Cortex, MeanThickness, Mean Thickness, 2.5, mm",
    ]
    if version != "5.3":
        lines += whole_brain("6.0")[:2]
        comma = "" if version == "6.0" else ","
        lines.append(f"# Measure Cortex, CortexVol{comma} Total cortical gray matter volume, 5e5, mm^3")
        lines.append(total_volume(version))
    lines += ["# NTableCols 10", f"# ColHeaders {HEADERS}"]
    for region in regions:
        thickness, spread, curvature = rng.uniform(1.5, 3.5), rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.2)
        lines.append(
            f"{region:40s} {VERTICES:4d} {rng.integers(500, 900):6d} {rng.integers(900, 3000):6d} "
            f"{thickness:6.3f} {spread:5.3f} {curvature:9.3f} {curvature / 5:9.3f} "
            f"{rng.integers(5, 99):8d} {rng.uniform(0.5, 9):7.1f}"
        )
    return "\n".join(lines) + "\n"


def segmentation(
    names: Sequence[str], measures: Sequence[str], rng: np.random.Generator, decimals: int = 1
) -> str:
    columns = "Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange"
    lines = ["# Title Segmentation Statistics ", "# ", *measures, f"# NRows {len(names)} "]
    lines += ["# NTableCols 10 ", f"# ColHeaders  {columns}  "]
    for place, name in enumerate(names, 1):
        volume = 0.0 if name == "Left-vessel" else rng.uniform(500, 9000)
        lines.append(
            f"{place:3d} {place + 3:3d} {int(volume):9d} {volume:10.{decimals}f}  {name:30s} "
            "  27.3055    15.4437     0.0000    88.0000    88.0000 "
        )
    return "\n".join(lines) + "\n"


def aparc_table(folder: Path, side: str, atlas: str, measure: str) -> str:
    """What aparcstats2table makes of the subjects of a folder (all of one version)."""
    column = {"area": 2, "volume": 3, "thickness": 4, "thicknessstd": 5, "meancurv": 6, "gauscurv": 7,
              "foldind": 8, "curvind": 9}[measure]  # fmt: skip
    rows = []
    for subject in sorted(folder.iterdir()):
        lines = (subject / "stats" / f"{side}.{atlas}.stats").read_text().splitlines()
        cells = {
            f"{side}_{line.split()[0]}_{measure}": line.split()[column] for line in lines if line[0] != "#"
        }
        said = {line.split(",")[1].strip(): line.split(",")[-2] for line in lines if "Measure" in line}
        whole = {"area": "WhiteSurfArea", "thickness": "MeanThickness"}.get(measure)
        if whole:
            cells[f"{side}_{whole}_{measure}"] = said[whole]
        cells |= {name: said[name].strip() for name in ("BrainSegVolNotVent", "eTIV") if name in said}
        rows.append({f"{side}.{atlas}.{measure}": subject.name, **cells})
    return "\n".join("\t".join(line) for line in (rows[0].keys(), *(row.values() for row in rows))) + "\n"
