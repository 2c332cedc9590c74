"""One object says how sources are read, and what a store keeps of it stays what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.recipe import read_recipe
from hpc_brainage.errors import UsageError


def test_the_record_of_what_is_not_said_is_that_of_older_stores() -> None:
    assert Reading().describe() == {
        "features": None,
        "where": None,
        "connectivity": "pearson",
        "entities": None,
    }
    said = Reading(ColumnMap(id="eid", sex_codes={"1": "M"}), features="lh_*", connectivity="tangent")
    assert said.describe("age > 3") == {
        "id": "eid",
        "sex_codes": {"1": "M"},
        "features": "lh_*",
        "where": "age > 3",
        "connectivity": "tangent",
        "entities": None,
    }


def test_the_record_says_what_is_not_usual_and_holds_no_path(tmp_path: Path) -> None:
    reading = Reading(
        atlas=tmp_path / "schaefer.nii.gz",
        confounds="compcor",
        participants=("01", "2"),
        voxels="float32",
        resample=str(tmp_path / "template.nii.gz"),
    )
    record = reading.describe()
    assert record["atlas"] == "schaefer.nii.gz"
    assert record["confounds"] == "compcor"
    assert record["participant_label"] == ["01", "2"]
    assert record["voxels"] == "float32"
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ({"connectivity": "pearsn"}, "unknown connectivity", "'pearson'"),
        ({"confounds": "scrub"}, "unknown confounds", "'scrubbing'"),
        ({"confounds": "compcor"}, "would not be heard", "--atlas"),
        ({"voxels": "int16"}, "unknown voxels", "native"),
        ({"role": "dwi"}, "unknown role", "smri"),
    ],
)
def test_a_choice_that_is_not_known_is_named(said: dict[str, str], what: str, hint: str) -> None:
    with pytest.raises(UsageError, match=what) as error:
        Reading(**said)  # type: ignore[arg-type]
    assert hint in str(error.value)


def test_a_recipe_says_how_to_read_with_flat_keys(tmp_path: Path) -> None:
    path = tmp_path / "cohort.toml"
    path.write_text(
        'source = "fmriprep"\natlas = "atlases/slabs.nii.gz"\nconfounds = "scrubbing"\nage = "Age"\n'
        'participant_label = ["sub-01", "02,03"]\n'
    )
    assert read_recipe(path).reading == Reading(
        ColumnMap(age="Age"),
        atlas=tmp_path / "atlases" / "slabs.nii.gz",
        confounds="scrubbing",
        participants=("01", "02", "03"),
    )
    path.write_text('source = "fmriprep"\nparticipant_label = "sub-01, 02"\n')
    assert read_recipe(path).reading.participants == ("01", "02")
    for text, what in (
        ("participant_label = [1, 2]", "participant_label is 1"),
        ('participant_label = ""', "label is empty"),
        ('confounds = "simpel"', "confounds is 'simpel'"),
        ("atlas = 3", "atlas is 3"),
    ):
        path.write_text(f'source = "x"\n{text}\n')
        with pytest.raises(UsageError, match=what):
            read_recipe(path)
