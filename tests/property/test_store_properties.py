"""What must hold for any cohort and any size of shard."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from conversion.synthetic import (
    cohort_of,
    features,
    hashes,
    measurements,
    people,
    small_shards,
    surface,
    volume,
    without_flushing,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpc_brainage.conversion.convert import convert, finalise, init, plan_for
from hpc_brainage.conversion.parts import share, write_parts
from hpc_brainage.modality import Modality
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import cut, shard_key
from hpc_brainage.store.statistics import Statistics
from hpc_brainage.store.verify import verify

power_of_two = st.integers(0, 4).map(lambda exponent: 2**exponent)
sizes = st.integers(1, 5)
modality_sets = st.tuples(
    st.one_of(st.none(), sizes.map(features)),
    st.one_of(st.none(), st.tuples(sizes, sizes, sizes).map(volume)),
    st.one_of(st.none(), st.builds(surface, sizes, sizes)),
    st.just(features(2, "fc", role="fmri")),
).map(lambda chosen: [modality for modality in chosen if modality is not None])


@settings(deadline=None, max_examples=100)
@given(n=st.integers(1, 60), modalities=modality_sets, longest=power_of_two, chunk=st.integers(4, 200))
def test_parts_cover_every_scan_once_and_share_no_file(
    n: int, modalities: list[Modality], longest: int, chunk: int
) -> None:
    cohort = cohort_of(people(n), {modality: measurements(modality, n) for modality in modalities})
    with small_shards(longest, chunk):
        plan = plan_for(cohort)
        assert plan_for(cohort).sha256 == plan.sha256
    assert [row for rows in plan.parts for row in rows] == list(range(n))
    for planned in plan.modalities:
        written = [rows for part in range(len(plan.parts)) for rows in plan.shards(part, planned)]
        assert written == cut(n, planned.layout.shard_scans)
        keys = [shard_key(planned.modality, rows.start // planned.layout.shard_scans) for rows in written]
        assert len(set(keys)) == len(keys)
        for part, rows in enumerate(plan.parts):
            of_part = plan.shards(part, planned)
            assert [row for shard in of_part for row in shard] == list(rows)
        assert plan.part_scans % planned.layout.shard_scans == 0
        assert planned.layout.shard_scans % planned.layout.chunk_scans == 0


@settings(deadline=None, max_examples=100)
@given(parts=st.integers(0, 300), of=st.integers(1, 40))
def test_shares_are_consecutive_cover_every_part_once_and_are_equal_but_for_one(
    parts: int, of: int
) -> None:
    shares = [share(parts, number, of) for number in range(1, of + 1)]
    assert [part for one in shares for part in one] == list(range(parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(deadline=None, max_examples=20)
@given(
    data=st.data(),
    n=st.integers(1, 30),
    longest=power_of_two,
    workers=st.integers(1, 4),
    of=st.integers(1, 5),
)
def test_any_number_of_workers_and_any_shares_in_any_order_give_the_same_bytes(
    data: st.DataObject, n: int, longest: int, workers: int, of: int
) -> None:
    arrays = {modality: measurements(modality, n) for modality in (features(3), volume((2, 3, 2)))}
    present = {"smri/vbm": np.random.default_rng(n).random(n) < 0.6}
    cohort = cohort_of(people(n), arrays, present, refuse={"smri/table": [n // 2]})
    with tempfile.TemporaryDirectory() as folder, small_shards(longest), without_flushing():
        one, other = Path(folder) / "one.zarr", Path(folder) / "other.zarr"
        convert(cohort, one, workers=1)
        build = init(cohort, other)
        parts = len(build.plan.parts)
        for number in data.draw(st.permutations(range(1, of + 1))):
            write_parts(cohort, build, share(parts, number, of), workers=workers)
        again = data.draw(st.lists(st.integers(0, parts - 1), max_size=3))
        write_parts(cohort, init(cohort, other), again, workers=workers)
        finalise(cohort, build)
        assert hashes(one) == hashes(other)


@settings(deadline=None, max_examples=30)
@given(
    data=st.data(),
    n=st.integers(1, 20),
    modalities=modality_sets,
    longest=power_of_two,
    chunk=st.integers(4, 100),
)
def test_what_was_written_is_read_in_any_order_and_absent_stays_absent(
    data: st.DataObject, n: int, modalities: list[Modality], longest: int, chunk: int
) -> None:
    finite = st.floats(-(2.0**100), 2.0**100, width=32)
    arrays, present = {}, {}
    for modality in modalities:
        shape = (n, *modality.shape)
        element = st.one_of(finite, st.just(np.nan)) if modality.kind == "features" else finite
        values = data.draw(hnp.arrays(np.float32, shape, elements=element, fill=st.just(0.0)))
        if modality.kind == "features":
            values[np.isnan(values).all(axis=1), 0] = 0.0
        arrays[modality] = values
        present[modality.key] = data.draw(hnp.arrays(bool, n))
    cohort = cohort_of(people(n), arrays, present)
    with tempfile.TemporaryDirectory() as folder, small_shards(longest, chunk), without_flushing():
        path = convert(cohort, Path(folder) / "any.zarr").store_path
        assert verify(path) == []
        store = Store.open(path)
        for modality, values in arrays.items():
            has = present[modality.key]
            np.testing.assert_array_equal(store.present(modality.key), has)
            rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=30)), dtype=int)
            if modality.kind == "features":
                expected = np.where(has[rows, None], values[rows], np.float32(np.nan))
            else:
                rows = rows[has[rows]]
                expected = values[rows]
            read = store.read(modality.key, rows)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, expected)


@settings(deadline=None, max_examples=10)
@given(n=st.integers(2, 20), seed=st.integers(0, 1000), longest=power_of_two)
def test_the_order_of_the_scans_changes_nothing_but_their_order(n: int, seed: int, longest: int) -> None:
    modalities = [features(3), volume((2, 2, 2))]
    cohort = cohort_of(people(n), {modality: measurements(modality, n, seed) for modality in modalities})
    order = np.random.default_rng(seed).permutation(n)
    with tempfile.TemporaryDirectory() as folder, small_shards(longest), without_flushing():
        one = Store.open(convert(cohort, Path(folder) / "one.zarr").store_path)
        other = Store.open(convert(cohort.take(order), Path(folder) / "other.zarr").store_path)
        assert one.content_sha256 == other.content_sha256
        for key in one.modalities:
            assert other.checksums(key).tolist() == one.checksums(key)[order].tolist()
            ours, theirs = one.statistics(key), other.statistics(key)
            np.testing.assert_array_equal(ours.count, theirs.count)
            np.testing.assert_array_equal(ours.max, theirs.max)
            np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
            np.testing.assert_allclose(ours.m2, theirs.m2, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 4)),
        elements=st.one_of(st.floats(-1e4, 1e4, width=32), st.just(np.nan)),
    ),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    tree=st.booleans(),
)
def test_statistics_merged_in_any_grouping_are_those_of_one_pass(
    values: np.ndarray, cuts: list[int], tree: bool
) -> None:
    pieces = [Statistics.of_features(piece) for piece in np.split(values, sorted(cuts))]
    while len(pieces) > 1:  # in pairs from the end, or one after the other from the start
        last = pieces.pop(1) if not tree else pieces.pop()
        where = 0 if not tree else -1
        pieces[where] = pieces[where].merge(last)
    exact = values.astype(np.float64)
    known = ~np.isnan(exact)
    count = known.sum(axis=0)
    np.testing.assert_array_equal(pieces[0].count, count)
    for column in range(values.shape[1]):
        column_values = exact[known[:, column], column]
        merged = [getattr(pieces[0], name)[column] for name in ("mean", "m2", "min", "max")]
        if len(column_values) == 0:
            assert merged[1] == 0
            assert np.isnan([merged[0], merged[2], merged[3]]).all()
            continue
        m2 = ((column_values - column_values.mean()) ** 2).sum()
        scale = np.abs(column_values).max()
        np.testing.assert_allclose(merged[0], column_values.mean(), rtol=1e-10, atol=1e-12 * scale)
        np.testing.assert_allclose(merged[1], m2, rtol=1e-10, atol=1e-20 * scale**2 * len(column_values))
        assert merged[2:] == [column_values.min(), column_values.max()]
