from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import openbhb_trees as trees
import pandas as pd
import pytest
from battery import check_cohort

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import AddedSource, cohort_name, modality_of, open_cohort, parse_added
from hpc_brainage.errors import CohortError, UsageError


def table(folder: Path, name: str, **columns: Any) -> Path:
    path = folder / name
    pd.DataFrame(columns).to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A small study: people, two hemispheres as FreeSurfer writes them, and a connectome."""
    folder = tmp_path / "study"
    folder.mkdir()
    ids = [f"sub-0{i}" for i in range(1, 7)]
    table(folder, "participants.tsv", participant_id=ids,
          age=[20, 31, 42, 53, 64, "n/a"], sex=list("MFMFMF"),
          dx=["TC", "ASD"] * 3, fiq=[100, 90, 80, 110, 120, 95])  # fmt: skip
    thick = [2.5, 2.4, 2.3, 0.0, 2.2]
    table(
        folder,
        "smri_lh.tsv",
        **{"lh.aparc.thickness": ids[:5], "lh_a_thickness": thick, "eTIV": [1.5e6] * 5},
    )
    table(folder, "smri_rh.tsv", **{"rh.aparc.thickness": ids[4::-1], "rh_a_thickness": thick[::-1],
                                    "eTIV": [1.5e6] * 5})  # fmt: skip
    edges = {f"{a}--{b}": np.linspace(-1, 1, 4) for a, b in combinations("123", 2)}
    table(folder, "fmri_fc.csv", id=[*ids[:3], "sub-99"], age=[1, 2, 3, 4], **edges)
    return folder


def test_people_tables_and_connectomes_become_one_cohort(study: Path) -> None:
    def read() -> Cohort:
        add = [parse_added(f"smri/thickness={study}/smri_*.tsv"), parse_added(f"fmri={study}/fmri_fc.csv")]
        return open_cohort(study / "participants.tsv", add=add)

    cohort = check_cohort(read)
    assert cohort.name == "study"
    assert cohort.scans["participant_id"].tolist() == ["01", "02", "03", "04", "05"]
    assert cohort.scans["age"].tolist() == [20, 31, 42, 53, 64]
    thickness, fc = cohort.sources["smri/thickness"], cohort.sources["fmri/fc"]
    assert thickness.modality.features == ("lh_a_thickness", "eTIV", "rh_a_thickness")
    assert fc.modality.features == ("1--2", "1--3", "2--3")
    assert fc.present.tolist() == [True, True, True, False, False]
    np.testing.assert_array_equal(thickness.load(3), np.array([np.nan, 1.5e6, np.nan], np.float32))
    np.testing.assert_array_equal(thickness.load(1), np.array([2.4, 1.5e6, 2.4], np.float32))
    assert [(source.source, source.matched) for source in cohort.account.sources] == [
        ("participants.tsv", 5), ("smri_lh.tsv", 5), ("smri_rh.tsv", 5), ("fmri_fc.csv", 3),
    ]  # fmt: skip
    assert cohort.account.sources[0].unmeasured == (("06", "", ""),)
    assert cohort.account.sources[3].only_here == (("99", "", ""),)
    assert any("age are not used" in note for note in cohort.account.notes)


def test_a_selection_may_name_the_table_s_own_column(study: Path) -> None:
    add = [parse_added(f"smri={study}/smri_lh.tsv")]
    cohort = open_cohort(study / "participants.tsv", add=add, where="dx == 'TC' and fiq > 90", name="tc")
    assert cohort.scans["participant_id"].tolist() == ["01", "05"]
    assert cohort.name == "tc"
    assert cohort.recipe["options"]["where"] == "dx == 'TC' and fiq > 90"


def test_the_recipe_knows_files_by_name_and_hash_and_no_folder(study: Path) -> None:
    cohort = open_cohort(study / "participants.tsv", add=[parse_added(f"smri={study}/smri_lh.tsv")])
    (added,) = cohort.recipe["added"]
    assert cohort.recipe["files"][0]["name"] == "participants.tsv"
    assert len(added["files"][0]["sha256"]) == 64
    assert str(study) not in str(cohort.recipe)


def test_a_folder_of_tables_is_added_without_its_participants(study: Path) -> None:
    (study / "fmri_fc.csv").unlink()
    cohort = open_cohort(study / "participants.tsv", add=[AddedSource("smri", None, study)])
    assert cohort.sources["smri/study"].modality.shape == (3,)


def test_the_measurements_of_one_table_are_smri_and_those_of_a_connectome_fmri(tmp_path: Path) -> None:
    ids = ["a", "b", "c"]
    one = table(tmp_path, "all.csv", subject_id=ids, lh_x_area=[1.0, 2, 3], iq=[1, 2, 3])
    assert list(open_cohort(one).sources) == ["smri/all"]
    pairs = {f"{a}_{b}": [0.1, 0.2, 0.3] for a, b in combinations(["V", "M", "D", "L"], 2)}
    two = table(tmp_path, "fc.csv", sub_id=ids, mean_FD=[0.1, 0.2, 0.1], **pairs)
    assert list(open_cohort(two).sources) == ["fmri/fc"]
    assert open_cohort(two).sources["fmri/fc"].modality.shape == (6,)


def test_identities_that_look_like_numbers_keep_their_zeros(tmp_path: Path) -> None:
    people = table(tmp_path, "people.csv", id=["0051456", "100053248969"], age=[20, 30])
    side = table(tmp_path, "fs.csv", Subject_nr=["0051456", "100053248969"], lh_x_area=[1.0, 2.0])
    cohort = open_cohort(people, add=[AddedSource("smri", None, side)])
    assert cohort.scans["participant_id"].tolist() == ["0051456", "100053248969"]


def test_features_chooses_in_every_table_and_must_choose_something(study: Path) -> None:
    people = study / "participants.tsv"
    add = [parse_added(f"smri={study}/smri_lh.tsv")]
    assert open_cohort(people, reading=Reading(features="lh_*"), add=add).sources[
        "smri/lh"
    ].modality.shape == (1,)
    assert list(open_cohort(people, reading=Reading(features="fiq")).sources) == ["smri/participants"]
    with pytest.raises(UsageError, match="no column"):
        open_cohort(people, reading=Reading(features="zz_*"), add=add)


def test_measurements_of_nobody_are_no_cohort_to_convert(tmp_path: Path, study: Path) -> None:
    table(tmp_path, "empty.csv", id=["sub-01", "sub-02"], lh_x_area=[np.nan, np.nan])
    with pytest.raises(CohortError, match="no scan has a measurement") as error:
        open_cohort(study / "participants.tsv", add=[parse_added(f"smri={tmp_path}/empty.csv")])
    assert "smri/empty" in str(error.value.where)
    assert error.value.expected
    assert error.value.hint


def test_people_alone_are_no_cohort_to_convert(study: Path) -> None:
    with pytest.raises(CohortError, match="measurement of a brain") as error:
        open_cohort(study / "participants.tsv")
    assert "--features" in str(error.value)
    assert "fiq" in str(error.value)


def test_a_cohort_of_which_every_scan_is_refused_is_an_error(tmp_path: Path) -> None:
    path = table(tmp_path, "fs.csv", id=["a", "a"], age=[20, 30], lh_x_area=[1.0, 2.0])
    with pytest.raises(CohortError, match="none of the 1 scans can be used") as error:
        open_cohort(path)
    assert "two ages" in str(error.value)


def test_a_folder_of_tables_of_which_none_is_called_participants_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("id,age\na,20\n")
    (tmp_path / "thickness.csv").write_text("id,lh_insula_thickness\na,2.5\n")
    with pytest.raises(CohortError, match="not recognised") as error:
        open_cohort(tmp_path)
    assert "people.csv, thickness.csv" in str(error.value)


def test_ages_in_months_by_the_sidecar_are_converted_with_a_note(study: Path) -> None:
    (study / "participants.json").write_text('{"age": {"Units": "months"}}')
    cohort = open_cohort(study / "participants.tsv", add=[parse_added(f"smri={study}/smri_lh.tsv")])
    assert cohort.scans["age"][0] == pytest.approx(20 / 12)
    assert any("months" in note for note in cohort.account.notes)


def test_a_unit_that_is_said_comes_before_the_sidecar_and_weeks_are_refused(study: Path) -> None:
    add = [parse_added(f"smri={study}/smri_lh.tsv")]
    (study / "participants.json").write_text('{"age": {"Units": "months"}}')
    said = open_cohort(
        study / "participants.tsv", reading=Reading(columns=ColumnMap(age_unit="years")), add=add
    )
    assert said.scans["age"][0] == 20
    assert said.recipe["options"]["age_unit"] == "years"
    (study / "participants.json").write_text('{"age": {"Units": "weeks"}}')
    with pytest.raises(CohortError, match="'weeks'") as error:
        open_cohort(study / "participants.tsv", add=add)
    assert "--age-unit" in str(error.value)


@pytest.mark.parametrize("first", ["Unnamed: 0", "", "index", "row", "age"])
def test_row_numbers_are_never_the_identity_of_an_added_table(tmp_path: Path, first: str) -> None:
    people = table(tmp_path, "people.csv", id=range(20), age=[20] * 20)
    named = table(
        tmp_path, "named.csv", **{first: range(20), "subject": range(19, -1, -1), "lh_x_area": range(1, 21)}
    )
    cohort = open_cohort(people, add=[AddedSource("smri", None, named)])
    assert [cohort.sources["smri/named"].load(row)[0] for row in (0, 19)] == [20, 1]
    assert any("'subject' says who was scanned" in note for note in cohort.account.notes)
    others = table(
        tmp_path,
        "others.csv",
        **{first: range(20), "subject": list("abcdefghijklmnopqrst"), "lh_x_area": [1] * 20},
    )
    with pytest.raises(CohortError, match="no scan of this source"):
        open_cohort(people, add=[AddedSource("smri", None, others)])
    nobody = table(tmp_path, "nobody.csv", **{first: range(20), "lh_x_area": range(1, 21)})
    with pytest.raises(CohortError, match="who was scanned"):
        open_cohort(people, add=[AddedSource("smri", None, nobody)])


def test_of_two_usual_names_the_one_that_only_counts_the_rows_loses(tmp_path: Path) -> None:
    people = table(tmp_path, "people.csv", id=["3", "1", "2"], age=[20, 30, 40])
    side = table(tmp_path, "fs.csv", id=[1, 2, 3], subject=["1", "3", "9"], lh_x_area=[1.0, 3.0, 9.0])
    cohort = open_cohort(people, add=[AddedSource("smri", None, side)])
    assert cohort.scans["participant_id"].tolist() == ["3", "1"]
    assert [cohort.sources["smri/fs"].load(row)[0] for row in (0, 1)] == [3, 1]


def test_a_first_column_of_an_own_name_is_the_identity_if_it_meets_the_cohort(
    tmp_path: Path,
) -> None:
    people = table(tmp_path, "people.csv", id=["x1", "x2"], age=[20, 30])
    side = table(tmp_path, "fs.csv", Probandennummer=["x2", "x1"], lh_x_area=[2.0, 1.0])
    cohort = open_cohort(people, add=[AddedSource("smri", None, side)])
    assert cohort.sources["smri/fs"].load(0)[0] == 1
    assert any("'Probandennummer' says who was scanned" in note for note in cohort.account.notes)


def test_a_selection_means_the_same_as_in_the_store_and_refuses_only_whom_it_means(tmp_path: Path) -> None:
    people = table(tmp_path, "people.csv", id=list("abcd"), age=[20] * 4, dx=["TC", "ASD", "TC", None],
                   wave=["one", None, "two", "one"])  # fmt: skip
    side = table(tmp_path, "fs.csv", id=list("abcd"), lh_x_area=["1", "bad", "3", "4"], lh_y_area=[1] * 4)
    add = [AddedSource("smri", None, side)]
    everyone = open_cohort(people, add=add)
    assert everyone.scans["wave"].tolist() == ["one", "two", "one"]
    assert [refusal.participant_id for refusal in everyone.account.refusals] == ["b"]
    controls = open_cohort(people, add=add, where="dx == 'TC'")
    assert controls.account.refusals == ()
    assert any("1 refusals are of those" in note for note in controls.account.notes)
    assert open_cohort(people, add=add, where="dx == ''").scans["participant_id"].tolist() == ["d"]
    with pytest.raises(UsageError, match="has a measurement"):
        open_cohort(people, add=add, where="wave == ''")


def test_what_openbhb_would_not_hear_is_refused_by_its_flag(tmp_path: Path) -> None:
    folder = trees.huggingface(tmp_path / "openbhb")
    for said, flag in (
        ({"columns": ColumnMap(age="age_years", age_unit="years")}, "--age, --age-unit"),
        ({"columns": ColumnMap(id="participant_id")}, "--id"),
        ({"role": "smri"}, "--role"),
        ({"features": "lh*"}, "--features"),
    ):
        with pytest.raises(UsageError, match=f"{flag} would not be heard: OpenBHB"):
            open_cohort(folder, reading=Reading(**said))
    ids = open_cohort(folder).scans["participant_id"]
    side = table(tmp_path, "fc.csv", subject=ids, other=[1] * 3, **{"a--b": [0.1, 0.2, 0.3]})
    joined = open_cohort(
        folder, reading=Reading(columns=ColumnMap(id="subject")), add=[AddedSource("fmri", None, side)]
    )
    assert joined.sources["fmri/fc"].present.all()


def test_a_table_without_ages_is_taken_and_says_what_that_means(tmp_path: Path) -> None:
    cohort = open_cohort(table(tmp_path, "t.csv", id=["a"], AgeMRI_W1=[30.0], lh_x_area=[1.0]))
    assert cohort.scans["age"].isna().all()
    assert any("AgeMRI_W1" in note and "--age" in note for note in cohort.account.notes)


def test_an_npz_is_a_cohort_or_a_source(tmp_path: Path) -> None:
    path = tmp_path / "fmri_z.npz"
    np.savez(path, z=np.ones((2, 3), np.float16), subject_id=np.array(["sub-a", "sub-b"]),
             age=np.array([20.0, 30]), edge=np.array(["1--2", "1--3", "2--3"]))  # fmt: skip
    cohort = check_cohort(lambda: open_cohort(path))
    assert cohort.scans["age"].tolist() == [20, 30]
    assert list(cohort.sources) == ["fmri/z"]
    people = table(tmp_path, "people.csv", id=["b", "c"], age=[31, 41], lh_x_area=[1.0, 2.0])
    joined = open_cohort(people, add=[parse_added(f"fmri/fc={path}::data=z,ids=subject_id")])
    assert joined.scans["age"].tolist() == [31, 41]
    assert joined.sources["fmri/fc"].present.tolist() == [True, False]


def test_where_nothing_is_or_nothing_is_known_the_layouts_are_named(tmp_path: Path, study: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "notes.docx").write_text("hello")
    for path, what in (
        (tmp_path / "nowhere", "nothing at this path"),
        (empty, "empty"),
        (tmp_path / "notes.docx", "not recognised"),
    ):
        with pytest.raises(CohortError, match=what) as error:
            open_cohort(path)
        assert "OpenBHB" in str(error.value)
    with pytest.raises(CohortError, match="nothing at this path"):
        open_cohort(study / "participants.tsv", add=[parse_added(f"smri={study}/none_*.tsv")])


def test_an_added_table_without_measurements_or_matches_is_an_error(tmp_path: Path, study: Path) -> None:
    people = study / "participants.tsv"
    table(tmp_path, "euler.csv", participant_id=["sub-01"], lh_euler=[-20])
    with pytest.raises(CohortError, match="no column of this table is a measurement"):
        open_cohort(people, add=[parse_added(f"smri={tmp_path}/euler.csv")])
    table(tmp_path, "others.csv", participant_id=["zoe"], lh_x_area=[20.0])
    with pytest.raises(CohortError, match="no scan of this source is in the cohort") as error:
        open_cohort(people, add=[parse_added(f"smri={tmp_path}/others.csv")])
    assert "zoe" in str(error.value)
    table(tmp_path, "nobody.csv", first=["zoe"], lh_x_area=[20.0])
    with pytest.raises(CohortError, match="who was scanned"):
        open_cohort(people, add=[parse_added(f"smri={tmp_path}/nobody.csv")])


@pytest.mark.parametrize(
    "text", ["smri", "smri=", "=x.csv", "dwi=x.csv", "smri=x.npz::data", "smri=x.npz::a=1,b"]
)
def test_an_added_source_must_be_understood(text: str) -> None:
    with pytest.raises(UsageError):
        parse_added(text)


def test_names_come_from_files() -> None:
    assert parse_added("fmri/fc=a=b.csv") == AddedSource("fmri", "fc", Path("a=b.csv"))
    assert modality_of(Path("x/smri_freesurfer6.csv.gz")) == "freesurfer6"
    assert modality_of(Path("x/fmri_fc_ho111_fisherz.npz")) == "fc_ho111_fisherz"
    assert modality_of(Path("x/tables/*.tsv")) == "tables"
    assert modality_of(Path("x/aparc_*.tsv")) == "aparc"
    assert modality_of(Path("x/sub-*_T1w.nii.gz")) == "t1w"
    assert modality_of(Path("subjects/*/mri/norm.mgz")) == "norm"
    assert modality_of(Path("x/*/*.nii")) == "x"
    assert cohort_name(Path("images/*_T1w.nii.gz")) == "images"
    assert cohort_name(Path("abide1/participants.csv")) == "abide1"
    assert cohort_name(Path("fcon1000.csv")) == "fcon1000"
