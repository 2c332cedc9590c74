from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from freesurfer_trees import DESIKAN, VERTICES, write_subject

from hpc_brainage.cohorts.freesurfer_stats import read_stats
from hpc_brainage.errors import ScanRefused

CORTEX = ("NumVert", "SurfArea", "ThickAvg")
SAMPLES = "format_samples/freesurfer_stats"


@pytest.fixture
def cortex(tmp_path: Path) -> Path:
    return write_subject(tmp_path / "bert", "6.0") / "stats" / "lh.aparc.stats"


def why(path: Path, wanted: tuple[str, ...] = CORTEX) -> str:
    with pytest.raises(ScanRefused) as error:
        read_stats(path, wanted)
    return f"{error.value.where}: {error.value.what}"


def test_a_file_gives_its_measures_and_columns(cortex: Path) -> None:
    stats = read_stats(cortex, CORTEX)
    assert stats.structures == DESIKAN
    assert stats.columns["NumVert"].tolist() == [VERTICES] * len(DESIKAN)
    assert stats.measures["MeanThickness"] == 2.5
    assert stats.measures["CortexVol"] == 5e5, "6.0 forgets a comma"
    assert set(stats.columns) == set(CORTEX)


def test_a_file_that_is_cut_off_anywhere_is_refused(cortex: Path) -> None:
    whole = cortex.read_bytes()
    for length in range(0, len(whole)):
        cortex.write_bytes(whole[:length])
        assert "lh.aparc.stats" in why(cortex)
    cortex.write_bytes(whole)
    read_stats(cortex, CORTEX)


def test_a_cut_names_the_line_and_what_is_there(cortex: Path) -> None:
    lines = cortex.read_text().splitlines(keepends=True)
    number = len(lines)
    cortex.write_text("".join(lines)[:-10])
    assert why(cortex) == f"lh.aparc.stats, line {number}: 9 fields where 10 columns are named"
    cortex.write_text("".join(lines)[:-1])
    assert "its last line has no end" in why(cortex)
    cortex.write_text("".join(lines[:-1]))
    assert "its 2 regions, the last of them cuneus, hold 2000 of 3000 vertices" in why(cortex)


def test_a_segmentation_with_fewer_rows_than_it_says_is_refused(tmp_path: Path) -> None:
    path = write_subject(tmp_path / "bert") / "stats" / "aseg.stats"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert "4 rows where the header says 5" in why(path, ("Volume_mm3",))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (" 1000 ", " many ", "'many' is not a number"),
        (" 1000 ", " 1e99 ", "the value 1e99 is infinite"),
        (" 1000 ", " inf ", "the value inf is infinite"),
        ("cuneus  ", "insula  ", "two rows are named insula"),
        ("ThickAvg", "ThickMed", "no column ThickAvg"),
        ("# Measure Cortex, MeanThickness, Mean Thickness, 2.5, mm", "# Measure 2.5", "without name"),
        ("Mean Thickness, 2.5", "Mean Thickness, thin", "'thin' is not a number"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(cortex: Path, old: str, new: str, said: str) -> None:
    text = cortex.read_text()
    assert old in text
    cortex.write_text(text.replace(old, new, 1))
    reason = why(cortex)
    assert said in reason
    assert reason.startswith("lh.aparc.stats, line ")


def test_a_value_that_freesurfer_could_not_compute_is_missing(cortex: Path) -> None:
    text = cortex.read_text().splitlines(keepends=True)
    fields = text[-1].split()
    fields[4] = "-nan"
    cortex.write_text("".join(text[:-1]) + " ".join(fields) + "\n")
    assert np.isnan(read_stats(cortex, CORTEX).columns["ThickAvg"][-1])


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lh.aparc.stats"
    assert "missing" in why(path)
    path.write_bytes(bytes(range(256)) * 50 + b"\n")
    assert "lh.aparc.stats" in why(path)
    path.write_text("")
    assert "no column StructName" in why(path)
    assert "no line begins" in why(path, ())
    path.unlink()
    path.mkdir()
    assert "cannot be read" in why(path)
    large = tmp_path / "large.stats"
    with large.open("wb") as file:
        file.truncate(1 << 33)
    assert "too many" in why(large)


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "rows", "measure", "value"),
    [
        ("fs5.3.0/stats/lh.aparc.stats", 34, "MeanThickness", 2.0922),
        ("fs6.0.0/stats/lh.aparc.stats", 34, "CortexVol", 553998.311189),
        ("fs6.0.0/stats/lh.aparc.DKTatlas.stats", 31, "eTIV", 1670487.274486),
        ("fs7.0.0/stats/rh.aparc.a2009s.stats", 74, "eTIV", 1420434.160521),
    ],
)
def test_real_files_of_the_cortex(
    real_data: Path, file: str, rows: int, measure: str, value: float
) -> None:
    stats = read_stats(real_data / SAMPLES / file, ("NumVert", "SurfArea", "CurvInd"))
    assert len(stats.structures) == rows
    assert stats.measures[measure] == value
    assert stats.columns["NumVert"].sum() == pytest.approx(stats.measures["NumVert"], rel=1e-3)


@pytest.mark.real
def test_a_real_file_that_was_shortened_is_refused(real_data: Path) -> None:
    reason = why(real_data / SAMPLES / "fs6.0.0/stats/rh.aparc.pial.stats.short")
    assert "its 2 regions, the last of them transversetemporal, hold 1995 of 149612 vertices" in reason


@pytest.mark.real
def test_real_files_of_volumes(real_data: Path) -> None:
    for version in ("5.3.0", "7.0.0"):
        stats = read_stats(real_data / SAMPLES / f"fs{version}/stats/aseg.stats", ("Volume_mm3",))
        assert (len(stats.structures), len(stats.measures)) == (45, 21 if version == "5.3.0" else 20)
    apart = read_stats(real_data / SAMPLES / "fs7.0.0/stats/brainvol.stats", ())
    assert apart.measures["MaskVol"] == 1686052
    assert apart.structures == ()
