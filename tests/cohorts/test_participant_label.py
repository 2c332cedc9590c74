"""Only some participants, of whatever source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openbhb_trees as trees
import pytest
from battery import check_cohort
from bids_trees import fmriprep, table, xcpd
from bold_trees import bold_of, bold_tree, write_atlas
from nifti_files import write_image

from hpc_brainage.cohorts.chosen_participants import participant_labels
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.errors import UsageError


def ids(source: Path, *labels: str, **said: object) -> list[str]:
    reading = Reading(participants=participant_labels(labels))
    return open_cohort(source, reading=reading, **said).scans["participant_id"].tolist()  # type: ignore[arg-type]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return table(
        tmp_path / "people.tsv",
        participant_id=["1", "01", "001", "x", "y"],
        age=["20", "30", "40", "impossible", "50"],
        lh_x_area=[1.0, 2.0, 3.0, 4.0, 5.0],
    )


def test_labels_are_text_with_or_without_sub() -> None:
    assert participant_labels(None) is None
    assert participant_labels(["sub-01,02", " 1 ", "02"]) == ("01", "02", "1")
    for empty in ([""], ["01,,02"], ["sub-"], []):
        with pytest.raises(UsageError, match="label is empty"):
            participant_labels(empty)


def test_leading_zeros_tell_people_apart(people: Path) -> None:
    assert ids(people, "sub-01") == ["01"]
    assert ids(people, "001", "1") == ["1", "001"], "in the order of the source"


def test_who_is_left_out_is_counted_and_their_refusals_are_not_listed(people: Path) -> None:
    cohort = open_cohort(people, reading=Reading(participants=("y", "1")))
    assert "2 of 4 scans left out by --participant-label; 1 refusals are of those and are not listed" in (
        cohort.account.notes
    )
    assert cohort.account.refusals == ()
    assert cohort.recipe["options"]["participant_label"] == ["y", "1"]
    np.testing.assert_array_equal(cohort.sources["smri/people"].load(1), [5.0])


def test_a_label_that_nobody_has_is_an_error_that_names_the_nearest(people: Path) -> None:
    with pytest.raises(UsageError, match="nobody has the label 0001") as error:
        ids(people, "01", "0001")
    assert "did you mean '001'?" in str(error.value)


def test_a_participant_who_was_refused_is_not_called_unknown(people: Path) -> None:
    with pytest.raises(UsageError, match="none of these participants has a scan") as error:
        ids(people, "x")
    assert "sub-x was refused because" in str(error.value)
    cohort = open_cohort(people, reading=Reading(participants=("x", "y")))
    assert [refusal.participant_id for refusal in cohort.account.refusals] == ["x"]


def test_a_participant_without_a_measurement_is_said_to_have_none(tmp_path: Path, people: Path) -> None:
    alone = table(tmp_path / "alone.tsv", participant_id=["1", "2"], age=[20, 30])
    with pytest.raises(UsageError, match="has a measurement") as error:
        ids(alone, "2", add=[parse_added(f"smri={people}")])
    assert "--participant-label" in str(error.value)


def test_labels_and_a_selection_both_hold(people: Path) -> None:
    assert ids(people, "1,01,001", where="age > 25") == ["01", "001"]


def test_openbhb_s_twelve_digits_are_labels(tmp_path: Path) -> None:
    folder = trees.huggingface(tmp_path / "openbhb")
    everyone = open_cohort(folder).scans["participant_id"].tolist()
    assert ids(folder, f"sub-{everyone[1]}") == [everyone[1]]
    with pytest.raises(UsageError, match="nobody has the label"):
        ids(folder, everyone[1].lstrip("0")[1:])


def test_images_in_a_folder_and_added_sources_follow(tmp_path: Path, people: Path) -> None:
    for person in ("1", "01", "y"):
        write_image(tmp_path / "t1" / f"sub-{person}_T1w.nii.gz")
    assert ids(tmp_path / "t1", "01") == ["01"]
    add = [parse_added(f"smri/t1w={tmp_path / 't1'}")]
    cohort = open_cohort(people, reading=Reading(participants=("001", "y")), add=add)
    assert cohort.scans["participant_id"].tolist() == ["001", "y"]
    assert cohort.sources["smri/t1w"].present.tolist() == [False, True]


def test_of_a_bids_tree_the_others_images_are_not_even_opened(tmp_path: Path) -> None:
    tree = fmriprep(tmp_path / "fmriprep")
    for path in tree.glob("sub-03/anat/*"):
        path.write_bytes(b"damaged")
    reading = Reading(entities="desc=preproc", participants=("01", "02"))
    cohort = check_cohort(lambda: open_cohort(tree, reading=reading))
    assert cohort.scans["participant_id"].tolist() == ["01", "02"]
    assert cohort.account.refusals == ()
    assert [(source.rows, source.matched, source.without) for source in cohort.account.sources] == [
        (3, 3, 0),
        (2, 2, 0),
    ]
    assert any("1 of 3 scans left out by --participant-label" in note for note in cohort.account.notes)
    with pytest.raises(UsageError, match="nobody has the label 1") as error:
        open_cohort(tree, reading=Reading(entities="desc=preproc", participants=("1",)))
    assert "'01'" in str(error.value)


def test_a_person_whom_the_table_of_a_tree_refuses_is_named_with_the_reason(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d", people=("01", "02"))
    table(tree / "participants.tsv", participant_id=["sub-01", "sub-02"], age=["impossible", "20"])
    with pytest.raises(UsageError, match="none of these participants has a scan") as error:
        ids(tree, "01")
    assert "sub-01 was refused because" in str(error.value)


def test_what_a_chosen_person_lacks_in_a_tree_is_still_counted(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d", people=("01", "02", "03"))
    for path in tree.glob("sub-02/ses-1/func/*"):
        path.unlink()
    cohort = open_cohort(tree, reading=Reading(participants=("02", "03")))
    assert cohort.sources["fmri/fc"].present.tolist() == [False, True]
    assert cohort.account.sources[-1].without == 1


def test_of_bold_series_only_those_that_are_asked_for_are_read(tmp_path: Path) -> None:
    tree = bold_tree(tmp_path / "fmriprep")
    atlas = write_atlas(tmp_path / "slabs.nii.gz")
    bold_of(tree, "03").write_bytes(b"damaged")
    for kind in ("pearson", "tangent"):
        reading = Reading(atlas=atlas, connectivity=kind, participants=("02", "01"))  # type: ignore[arg-type]
        cohort = open_cohort(tree, reading=reading)
        assert cohort.scans["participant_id"].tolist() == ["01", "02"]
        assert cohort.account.refusals == ()
    people = table(tmp_path / "people.tsv", participant_id=["01", "02", "03"], age=[20, 30, 40])
    add = [parse_added(f"fmri={tree}")]
    joined = open_cohort(people, reading=Reading(atlas=atlas, participants=("02",)), add=add)
    assert joined.scans["participant_id"].tolist() == ["02"]
