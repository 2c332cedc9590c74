from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from battery import check_cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.gathered import Gathered, Measured
from hpc_brainage.errors import CohortError

SCANS = st.lists(
    st.dictionaries(
        st.sampled_from(["aseg", "aparc"]),
        st.dictionaries(st.sampled_from(list("abcdef")), st.floats(1, 9, width=32), min_size=1),
    ),
    min_size=1,
    max_size=12,
).filter(any)


def gather(scans: list[dict[str, dict[str, float]]]) -> Cohort:
    gathered = Gathered(Path("subjects"), "smri", "test")
    for number, modalities in enumerate(scans):
        measured = {
            name: Measured(tuple(found), ("mm",) * len(found), np.array(list(found.values()), np.float32))
            for name, found in modalities.items()
        }
        gathered.add((f"{number:02d}", "", ""), measured, {"holes": float(number)})
    return gathered.cohort(len(scans), (), "statistics")


@given(scans=SCANS)
@settings(max_examples=100, deadline=None)
def test_every_value_comes_back_under_its_scan_modality_and_name(
    scans: list[dict[str, dict[str, float]]],
) -> None:
    cohort = check_cohort(lambda: gather(scans))
    given_values = {
        (f"{number:02d}", f"smri/{name}", feature): value
        for number, modalities in enumerate(scans)
        for name, found in modalities.items()
        for feature, value in found.items()
    }
    loaded = {
        (cohort.scans["participant_id"][row], key, feature): value
        for key, source in cohort.sources.items()
        for row in np.flatnonzero(source.present).tolist()
        for feature, value in zip(source.modality.features, source.load(row).tolist(), strict=True)
        if not np.isnan(value)
    }
    assert loaded == given_values
    assert len(cohort) == sum(bool(modalities) for modalities in scans)
    assert cohort.scans["holes"].tolist() == [float(i) for i, found in enumerate(scans) if found]


def test_scans_that_lack_a_region_are_counted() -> None:
    cohort = gather([{"aparc": {"a": 1, "b": 2}}, {"aparc": {"b": 3}}, {"aseg": {"c": 1}}])
    (note,) = [note for note in cohort.account.notes if "lack features" in note]
    assert note == "smri/aparc: 1 of 2 scans lack features that others have, most often a (1)"


def test_refusals_name_the_modality_or_the_whole_source() -> None:
    gathered = Gathered(Path("subjects"), "smri", "test")
    gathered.refuse(("01", "", ""), "it is cut off", "aparc")
    gathered.refuse(("02", "", ""), "nothing is there")
    with pytest.raises(CohortError, match="none of the 2 scans can be used") as error:
        gathered.cohort(2, ("a word",), "statistics")
    assert "the first was refused because: it is cut off" in str(error.value)
    gathered.add(("03", "", ""), {"aseg": Measured(("a",), ("mm3",), np.ones(1, np.float32))})
    cohort = gathered.cohort(3, ("a word",), "statistics")
    assert [(refusal.scan, refusal.source) for refusal in cohort.account.refusals] == [
        ("sub-01", "smri/aparc"),
        ("sub-02", "subjects"),
    ]
    assert (cohort.account.sources[0].rows, len(cohort)) == (3, 1)
    assert cohort.account.notes == ("subjects: a word",)


def test_a_file_that_was_read_changes_the_fingerprint_with_its_size(tmp_path: Path) -> None:
    file = tmp_path / "aseg.stats"

    def read(content: str) -> Cohort:
        file.write_text(content)
        gathered = Gathered(tmp_path, "smri", "test")
        gathered.has_read(file, "01/aseg.stats", content)
        gathered.add(("01", "", ""), {"aseg": Measured(("a",), ("mm3",), np.ones(1, np.float32))})
        return gathered.cohort(1, (), "statistics")

    first, second, same = read("short"), read("longer"), read("longer")
    marks = [cohort.sources["smri/aseg"].fingerprint for cohort in (first, second, same)]
    assert marks[0] != marks[1] == marks[2] != ""
    assert first.recipe["sha256"] != second.recipe["sha256"]
    assert (first.recipe["reader"], first.recipe["scan_files"]) == ("test", 1)
