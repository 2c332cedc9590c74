from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from battery import check_scans
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.cohort import Account, Cohort, Refusal
from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.feature_table import features_from_table
from hpc_brainage.cohorts.join import join, without_the_unmeasured
from hpc_brainage.errors import CohortError


def table(source: str, ids: list[str], role: Any = "smri", name: str = "fs", **columns: Any) -> Cohort:
    frame = pd.DataFrame({"participant_id": ids, **columns})
    return features_from_table(
        frame, ColumnMap(), source=source, role=role, name=name, declared=bool(columns)
    )


def values(cohort: Cohort, key: str = "smri/fs") -> np.ndarray:
    source = cohort.sources[key]
    nothing = np.full(source.modality.shape, np.nan, dtype=np.float32)
    return np.stack([source.load(row) if source.present[row] else nothing for row in range(len(cohort))])


@given(
    main=st.lists(st.integers(0, 12), unique=True, min_size=1, max_size=8),
    side=st.lists(st.integers(0, 12), unique=True, min_size=1, max_size=8),
)
@settings(max_examples=80, deadline=None)
def test_values_follow_their_person_and_every_scan_is_counted(main: list[int], side: list[int]) -> None:
    people = table("people", [f"p{i}" for i in main])
    measured = table(
        "side", [f"p{i}" for i in side], roi_a=[100.0 + i for i in side], roi_b=[200.0 + i for i in side]
    )
    if not set(main) & set(side):
        with pytest.raises(CohortError, match="no scan of this source"):
            join(people, measured)
        return
    joined = join(people, measured)
    assert joined.scans["participant_id"].tolist() == [f"p{i}" for i in main]
    check_scans(joined)
    counted = joined.account.sources[-1]
    assert counted.matched + counted.without == len(main)
    assert counted.matched + len(counted.only_here) == counted.rows == len(side)
    assert set(counted.only_here) == {(f"p{i}", "", "") for i in set(side) - set(main)}
    for row, person in enumerate(main):
        assert joined.sources["smri/fs"].present[row] == (person in side)
        if person in side:
            np.testing.assert_array_equal(joined.sources["smri/fs"].load(row), [100 + person, 200 + person])


def test_sessions_are_compared_where_both_sides_have_them() -> None:
    main = table("m", ["a", "a", "b"], session=["1", "2", "1"])
    side = table("s", ["a", "a", "b"], session=["2", "1", "9"], roi_x=[12.0, 11.0, 29.0])
    joined = join(main, side)
    np.testing.assert_array_equal(values(joined), [[11], [12], [np.nan]])
    assert joined.account.sources[-1].only_here == (("b", "9", ""),)


def test_a_side_without_sessions_is_ambiguous_for_people_with_several() -> None:
    main = table("m", ["a", "a", "b"], session=["1", "2", "1"])
    with pytest.raises(CohortError, match="sub-a have several scans") as error:
        join(main, table("s", ["a", "b"], roi_x=[1.0, 2.0]))
    assert "give both the session column that --session names (there is none in s)" in str(error.value)
    assert values(join(main, table("s", ["b"], roi_x=[2.0])))[2, 0] == 2


def test_a_side_with_one_session_per_person_fits_people_without_sessions() -> None:
    main = table("m", ["a", "b"])
    side = table("s", ["b", "a"], session=["base", "base"], roi_x=[2.0, 1.0])
    np.testing.assert_array_equal(values(join(main, side)), [[1], [2]])
    with pytest.raises(CohortError, match="several scans"):
        join(main, table("s", ["a", "a"], session=["1", "2"], roi_x=[1.0, 2.0]))


def test_two_tables_of_one_modality_stand_side_by_side_and_repeat_nothing() -> None:
    left = table("lh.tsv", ["a", "b", "c"], lh_x_area=[1.0, 2, 3], eTIV=[10.0, 20, np.nan])
    right = table("rh.tsv", ["c", "a", "d"], rh_x_area=[30.0, 10, 40], eTIV=[30.0, 10, 40])
    joined = join(join(table("people", ["a", "b", "c", "d"]), left), right)
    assert joined.sources["smri/fs"].modality.features == ("lh_x_area", "eTIV", "rh_x_area")
    assert joined.sources["smri/fs"].modality.units == ("mm2", "mm3", "mm2")
    np.testing.assert_array_equal(
        values(joined), [[1, 10, 10], [2, 20, np.nan], [3, 30, 30], [np.nan, 40, 40]]
    )
    np.testing.assert_array_equal(values(joined.take(np.array([3, 0]))), values(joined)[[3, 0]])


def test_a_repeated_column_with_other_values_is_kept_under_the_table_s_name() -> None:
    first = table("one.tsv", ["a", "b"], eTIV=[10.0, 20])
    second = table("lh.area.tsv", ["a", "b"], eTIV=[10.0, 21])
    joined = join(join(table("people", ["a", "b"]), first), second)
    assert joined.sources["smri/fs"].modality.features == ("eTIV", "eTIV_lh_area")
    np.testing.assert_array_equal(values(joined), [[10, 10], [20, 21]])
    assert any("eTIV_lh_area" in note for note in joined.account.notes)


def test_what_the_cohort_says_about_people_stays() -> None:
    main = table("m", ["a", "b"], age=[20.0, 30], euler=[-1, -2])
    side = table("s", ["b"], age=[99.0], euler=[-9], mean_fd=[0.5], roi_x=[1.0])
    joined = join(main, side)
    assert joined.scans["age"].tolist() == [20, 30]
    assert joined.scans["euler"].tolist() == [-1, -2]
    np.testing.assert_array_equal(joined.scans["mean_fd"], [np.nan, 0.5])
    assert any("own columns are kept: euler" in note for note in joined.account.notes)


def test_refusals_of_strangers_are_only_counted() -> None:
    side = table("s", ["a"], roi_x=[1.0])
    refusals = (Refusal("a", "2", "", "s", "broken"), Refusal("z", "", "", "s", "broken"))
    side = Cohort(side.name, side.scans, side.sources, side.account + Account(refusals=refusals))
    joined = join(table("m", ["a"]), side)
    assert joined.account.refusals == refusals[:1]
    assert any("1 rows that cannot be used are not of this cohort" in note for note in joined.account.notes)


def test_people_without_any_measurement_are_left_out_and_listed() -> None:
    joined = join(table("people", ["a", "b", "c"]), table("s", ["b"], roi_x=[2.0]))
    measured = without_the_unmeasured(joined)
    assert measured.scans["participant_id"].tolist() == ["b"]
    first, second = measured.account.sources
    assert (first.rows, first.matched, first.only_here) == (3, 1, ())
    assert first.unmeasured == (("a", "", ""), ("c", "", ""))
    assert (second.matched, second.without) == (1, 2)
    assert measured.sources["smri/fs"].load(0) == 2


def batch(source: str, ids: list[str], shift: float = 0.0) -> Cohort:
    """Ten regions of each person; `shift` makes a second scan of the same people."""
    order = np.array([int(person[1:]) for person in ids])
    return table(source, ids, **{f"roi_{i}": 100.0 * i + order + shift for i in range(10)})


def test_somebody_in_two_batches_keeps_the_first_scan_and_no_column_is_split() -> None:
    everyone = [f"p{i}" for i in range(10)]
    one, two = batch("site1.csv", everyone[:6]), batch("site2.csv", everyone[5:], shift=0.5)
    joined = join(join(table("people", everyone), one), two)
    assert joined.sources["smri/fs"].modality.features == tuple(f"roi_{i}" for i in range(10))
    assert joined.sources["smri/fs"].present.all()
    expected = np.array([[100 * i + p + 0.5 * (p > 5) for i in range(10)] for p in range(10)], np.float32)
    np.testing.assert_array_equal(values(joined), expected)
    (refusal,) = joined.account.refusals
    assert (refusal.participant_id, refusal.source) == ("p5", "site2.csv")
    assert "roi_0 is 5 there and 5.5 here and 9 more features" in refusal.reason
    assert (joined.account.sources[-1].rows, joined.account.sources[-1].matched) == (5, 4)


def test_a_few_people_who_differ_are_refused_and_most_make_another_column() -> None:
    people = [f"p{i}" for i in range(8)]
    one, two = batch("one.tsv", people), batch("two.tsv", people)
    moved = table("two.tsv", people, roi_0=[0, 1, 2, 3, 4, 5, 6, 70.0], roi_1=[-1.0] * 8)
    assert values(join(join(table("m", people), one), two)).shape == (8, 10)
    joined = join(join(table("m", people), one), moved)
    assert joined.sources["smri/fs"].modality.features[-1] == "roi_1_two"
    assert [refusal.participant_id for refusal in joined.account.refusals] == ["p7"]
    np.testing.assert_array_equal(values(joined)[:, -1], [-1] * 7 + [np.nan])
    assert values(joined)[7, 0] == 7
