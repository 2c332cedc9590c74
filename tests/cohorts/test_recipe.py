from __future__ import annotations

from pathlib import Path

import pytest

from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.recipe import Recipe, read_recipe
from hpc_brainage.cohorts.sources import AddedSource
from hpc_brainage.errors import UsageError

WHOLE = """
source = "people.csv"
output = "study.zarr"
id = "file_id"
sex = "SEX"
age_unit = "months"
where = "dx == 'TC'"
features = "lh_*"
connectivity = "partial"

[sex_codes]
1 = "M"
2 = "F"

[[add]]
role = "fmri"
name = "fc"
path = "/data/fc.npz"
arrays = { data = "fc_z" }

[[add]]
role = "smri"
path = "tables/*.tsv"
"""


def recipe(folder: Path, text: str) -> Path:
    path = folder / "cohort.toml"
    path.write_text(text)
    return path


def test_a_recipe_says_what_the_command_line_says(tmp_path: Path) -> None:
    assert read_recipe(recipe(tmp_path, WHOLE)) == Recipe(
        source=tmp_path / "people.csv",
        reading=Reading(
            columns=ColumnMap(id="file_id", sex="SEX", age_unit="months", sex_codes={"1": "M", "2": "F"}),
            features="lh_*",
            connectivity="partial",
        ),
        output=tmp_path / "study.zarr",
        add=(
            AddedSource("fmri", "fc", Path("/data/fc.npz"), {"data": "fc_z"}),
            AddedSource("smri", None, tmp_path / "tables/*.tsv"),
        ),
        where="dx == 'TC'",
    )


def test_a_recipe_opens_its_cohort(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("id,age,lh_x_area\na,20,1.5\nb,30,2.5\n")
    cohort = read_recipe(recipe(tmp_path, 'source = "people.csv"\nname = "two"\n')).open()
    assert (cohort.name, len(cohort)) == ("two", 2)


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ('sorce = "x"', "unknown key 'sorce'", "'source'"),
        ('source = "x"\n[[add]]\nrole = "smri"\npth = "y"', "unknown key 'pth'", "'path'"),
        ('source = "x"\n[[add]]\nrole = "smri"', "has no path", "role and path"),
        ('source = "x"\n[[add]]\nrole = "dwi"\npath = "y"', "unknown role", "smri"),
        ('source = "x"\n[add]\nrole = "smri"', "add is a list", "[[add]]"),
        ('source = "x"\nage = 3', "age is 3", "text"),
        ('source = "x"\nage_unit = "weeks"', "age_unit is 'weeks'", "months"),
        ('source = "x"\nconnectivity = "pearsn"', "connectivity is 'pearsn'", "'pearson'"),
        ('source = "x"\nsex_codes = "1=M"', "sex_codes is a table", "[sex_codes]"),
        ('id = "x"', "names no source", "source"),
        ("source = ", "not readable as TOML", ""),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, text: str, what: str, hint: str) -> None:
    with pytest.raises(UsageError, match=what) as error:
        read_recipe(recipe(tmp_path, text))
    assert hint in str(error.value)


def test_a_missing_recipe_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        read_recipe(tmp_path / "cohort.toml")
