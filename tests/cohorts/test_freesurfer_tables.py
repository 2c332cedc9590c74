from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from battery import check_cohort

from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.errors import CohortError, UsageError

UPRIGHT = (
    "Measure:volume\tLeft-Caudate\tLeft-Thalamus-Proper\tLeft-vessel\tSurfaceHoles\n"
    "sub-01\t3400.5\t7800.1\t0\t30\nsub-02\t3500.5\t7900.1\t12\t40\n"
)


def turned(text: str, pad: str = "\t") -> str:
    rows = zip(*(line.split("\t") for line in text.splitlines()), strict=True)
    return "".join(pad.join(row) + "\n" for row in rows)


@pytest.mark.parametrize("pad", ["\t", "   ", ","])
def test_a_table_on_its_side_says_the_same_as_an_upright_one(tmp_path: Path, pad: str) -> None:
    upright, side = tmp_path / "aseg.txt", tmp_path / "side" / "aseg.txt"
    side.parent.mkdir()
    upright.write_text(UPRIGHT)
    side.write_text(turned(UPRIGHT, pad))
    first = open_cohort(upright)
    second = check_cohort(lambda: open_cohort(side))
    pd.testing.assert_frame_equal(first.scans, second.scans, check_dtype=False)
    (one,), (other,) = first.sources.values(), second.sources.values()
    assert one.modality == other.modality
    assert one.modality.features == ("Left-Caudate", "Left-Thalamus", "Left-vessel")
    np.testing.assert_array_equal(one.load(1), other.load(1))
    assert any("was turned" in note for note in second.account.notes)
    assert not any("was turned" in note for note in first.account.notes)
    assert any("1 columns renamed: " in note for note in first.account.notes)


def test_both_hemispheres_on_their_side_are_joined_to_people(tmp_path: Path) -> None:
    for side in ("lh", "rh"):
        text = (
            f"{side}.aparc.thickness\tsub-01\tsub-02\n"
            f"{side}_insula_thickness\t2.5\t2.6\n{side}_cuneus_thickness\t1.5\t1.6\n"
            f"{side}_MeanThickness_thickness\t2.4\t2.3\neTIV\t1500000\t1600000\n"
        )
        (tmp_path / f"{side}.thickness.txt").write_text(text)
    people = tmp_path / "participants.tsv"
    people.write_text("participant_id\tage\nsub-02\t40\nsub-01\t30\n")
    cohort = check_cohort(lambda: open_cohort(people, add=[parse_added(f"smri/aparc={tmp_path}/?h.*.txt")]))
    modality = cohort.sources["smri/aparc"].modality
    assert modality.features.count("eTIV") == 1
    assert len(modality.features) == 7
    row = cohort.sources["smri/aparc"].load(0)
    assert row[modality.features.index("rh_cuneus_thickness")] == np.float32(1.6)


def cortical_tables(folder: Path, *atlases: str) -> Path:
    """Tables of both hemispheres by `aparcstats2table`, whose mean thickness is another in each atlas."""
    folder.mkdir()
    for at, atlas in enumerate(atlases):
        for side in ("lh", "rh"):
            (folder / f"{at}_{side}.txt").write_text(
                f"{side}.{atlas}.thickness\t{side}_{atlas[-3:]}_thickness\t"
                f"{side}_MeanThickness_thickness\teTIV\n"
                + "".join(f"sub-0{n}\t2.{n}\t2.{len(atlas)}{n}\t1500000\n" for n in (1, 2))
            )
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\nsub-02\t30\n")
    return folder


def test_tables_of_two_atlases_have_names_that_do_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    found = {}
    for name, atlases in {"one": ("aparc", "aparc.a2009s"), "other": ("aparc.a2009s", "aparc")}.items():
        folder = cortical_tables(tmp_path / name, *atlases)
        cohort = check_cohort(lambda folder=folder: open_cohort(folder))  # type: ignore[misc]
        ((_, source),) = cohort.sources.items()
        found[name] = dict(zip(source.modality.features, source.load(0).tolist(), strict=True))
        assert set(source.modality.units) == {"mm", "mm3"}
        told = [note for note in cohort.account.notes if "named by its atlas" in note]
        assert len(told) == 1
        assert "aparc and aparc.a2009s" in told[0]
    assert found["one"] == found["other"]
    assert found["one"]["lh_aparc_MeanThickness_thickness"] == pytest.approx(2.51)
    assert found["one"]["lh_aparc.a2009s_MeanThickness_thickness"] == pytest.approx(2.121)
    assert "lh_MeanThickness_thickness" not in found["one"]


def test_tables_of_one_atlas_keep_the_usual_names(tmp_path: Path) -> None:
    ((_, source),) = open_cohort(cortical_tables(tmp_path / "one", "aparc")).sources.items()
    assert "lh_MeanThickness_thickness" in source.modality.features


def test_sessions_in_the_names_of_subjects_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "aseg.txt"
    path.write_text(UPRIGHT.replace("sub-01", "sub-01_ses-1").replace("sub-02", "sub-01_ses-2"))
    cohort = check_cohort(lambda: open_cohort(path))
    assert cohort.scans[["participant_id", "session_id"]].to_numpy().tolist() == [["01", "1"], ["01", "2"]]
    people = tmp_path / "people.csv"
    people.write_text("participant_id,session_id,age\n01,2,31\n01,1,30\n")
    joined = open_cohort(people, add=[parse_added(f"smri={path}")])
    assert joined.sources["smri/aseg"].load(0)[0] == np.float32(3500.5)
    people.write_text("participant_id,age\n01_ses-2,31\n01_ses-1,30\n")
    joined = open_cohort(people, add=[parse_added(f"smri={path}")])
    assert joined.sources["smri/aseg"].load(0)[0] == np.float32(3500.5)


def test_a_table_with_two_names_for_one_structure_keeps_both(tmp_path: Path) -> None:
    path = tmp_path / "aseg.txt"
    path.write_text(UPRIGHT.replace("Left-Caudate", "Left-Thalamus"))
    (source,) = open_cohort(path).sources.values()
    assert source.modality.features[:2] == ("Left-Thalamus", "Left-Thalamus-Proper")


@pytest.mark.parametrize("pattern", ["Left-Thalamus", "Left-Thalamus-Proper", "*-Proper"])
def test_a_renamed_column_is_chosen_by_either_name(tmp_path: Path, pattern: str) -> None:
    path = tmp_path / "aseg.txt"
    path.write_text(UPRIGHT)
    (source,) = open_cohort(path, reading=Reading(features=pattern)).sources.values()
    assert source.modality.features == ("Left-Thalamus",)
    with pytest.raises(UsageError, match="no column"):
        open_cohort(path, reading=Reading(features="Left-Thalamus-Properly"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Left-vessel", "Left-Caudate", "two rows are named Left-Caudate"),
        ("Left-vessel", "", "names no region"),
        ("7800.1\t7900.1", "7800.1", "2 fields and the header has 3"),
        ("\tsub-02", "\tsub-01", "column names stand there more than once: sub-01"),
    ],
)
def test_a_table_on_its_side_that_makes_no_sense_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = tmp_path / "aseg.txt"
    text = turned(UPRIGHT)
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(CohortError, match=said):
        open_cohort(path)


def test_a_value_that_is_no_number_costs_that_scan_only(tmp_path: Path) -> None:
    path = tmp_path / "aseg.txt"
    path.write_text(turned(UPRIGHT + "sub-03\t3600.5\t8000.1\t5\t50\n").replace("7900.1", "oops"))
    cohort = open_cohort(path)
    assert cohort.scans["participant_id"].tolist() == ["01", "03"]
    assert "Left-Thalamus-Proper is 'oops'" in cohort.account.refusals[0].reason
