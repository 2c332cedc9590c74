from __future__ import annotations

import numpy as np
from battery import check_cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.gathered import Gathered, Measured

SCANS = st.lists(
    st.dictionaries(
        st.sampled_from(["aseg", "aparc"]),
        st.dictionaries(st.sampled_from(list("abcdef")), st.floats(1, 9, width=32), min_size=1),
    ),
    min_size=1,
    max_size=12,
)


def gather(scans: list[dict[str, dict[str, float]]]) -> Cohort:
    gathered = Gathered("subjects", "smri")
    for number, modalities in enumerate(scans):
        measured = {
            name: Measured(tuple(found), ("mm",) * len(found), np.array(list(found.values()), np.float32))
            for name, found in modalities.items()
        }
        gathered.add((f"{number:02d}", "", ""), measured, {"holes": float(number)})
    return gathered.cohort(len(scans), (), {"reader": "test"})


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
    if len(cohort):
        assert cohort.scans["holes"].tolist() == [float(i) for i, found in enumerate(scans) if found]


def test_scans_that_lack_a_region_are_counted() -> None:
    cohort = gather([{"aparc": {"a": 1, "b": 2}}, {"aparc": {"b": 3}}, {"aseg": {"c": 1}}])
    (note,) = [note for note in cohort.account.notes if "lack features" in note]
    assert note == "smri/aparc: 1 of 2 scans lack features that others have, most often a (1)"


def test_refusals_name_the_modality_or_the_whole_source() -> None:
    gathered = Gathered("subjects", "smri")
    gathered.refuse(("01", "", ""), "it is cut off", "aparc")
    gathered.refuse(("02", "", ""), "nothing is there")
    cohort = gathered.cohort(2, ("a word",), {})
    assert [(refusal.scan, refusal.source) for refusal in cohort.account.refusals] == [
        ("sub-01", "smri/aparc"),
        ("sub-02", "subjects"),
    ]
    assert (cohort.account.sources[0].rows, len(cohort), cohort.account.notes) == (2, 0, ("a word",))
