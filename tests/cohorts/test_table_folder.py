"""A folder of participants.tsv and tables beside it is a cohort, if the tables say what they are."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from hpc_brainage.cohorts.sources import open_cohort
from hpc_brainage.errors import CohortError

PEOPLE = "participant_id\tage\tsex\nsub-1\t30\tF\nsub-2\t40\tM\n"
REGIONS = ("lh_bankssts_thickness", "lh_cuneus_thickness")
THICKNESS = "\t".join(("lh.aparc.thickness", *REGIONS)) + "\nsub-1\t2.5\t2.1\nsub-2\t2.4\t2.2\n"
ROIS = ("Amygdala", "Caudate", "Putamen", "Insula")
EDGES = [f"{a}--{b}" for a, b in combinations(ROIS, 2)]
CONNECTOMES = (
    "\t".join(("participant_id", *EDGES)) + "\nsub-1" + "\t0.1" * 6 + "\nsub-2" + "\t0.2" * 6 + "\n"
)


def folder_of(path: Path, **tables: str) -> Path:
    path.mkdir()
    for name, content in tables.items():
        (path / f"{name}.tsv").write_text(content)
    return path


def test_people_and_tables_are_one_cohort(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "study", participants=PEOPLE, lh_thickness=THICKNESS, connectomes=CONNECTOMES
    )
    cohort = open_cohort(folder)
    assert cohort.name == "study"
    assert cohort.scans["age"].tolist() == [30, 40]
    assert set(cohort.sources) == {"smri/study", "fmri/study"}
    assert cohort.sources["smri/study"].modality.features == REGIONS


def test_a_file_name_may_say_the_role(tmp_path: Path) -> None:
    words = "participant_id\tfirst\tsecond\nsub-1\t1\t2\nsub-2\t3\t4\n"
    folder = folder_of(tmp_path / "study", participants=PEOPLE, fmri_gradients=words)
    assert set(open_cohort(folder).sources) == {"fmri/gradients"}


def test_a_table_that_says_nothing_is_named(tmp_path: Path) -> None:
    words = "participant_id\tbmi\tiq\nsub-1\t1\t2\nsub-2\t3\t4\n"
    folder = folder_of(tmp_path / "study", participants=PEOPLE, phenotype=words)
    with pytest.raises(CohortError, match=r"phenotype\.tsv[\s\S]*--add role=PATH"):
        open_cohort(folder)


@pytest.mark.real
def test_the_folder_of_a_public_data_set_is_enough(real_data: Path) -> None:
    cohort = open_cohort(real_data / "aomic_piop2_smri")
    assert len(cohort) == 226
    assert list(cohort.sources) == ["smri/aomic_piop2_smri"]
    assert cohort.sources["smri/aomic_piop2_smri"].present.all()
