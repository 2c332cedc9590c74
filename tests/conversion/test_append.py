"""Scans are added to a finished store: the same store as of all of them at once, whatever happens."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli.commands import TINY, type_command
from cohorts.nifti_files import voxels, write_image
from conversion.synthetic import (
    cohort_of,
    features,
    hashes,
    measurements,
    mixed_cohort,
    people,
    small_shards,
    surface,
    volume,
)
from planted import planted_cohort

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.conversion import append as append_module
from hpc_brainage.conversion.append import append
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import StoreError
from hpc_brainage.modality import Modality, ScaledIntegers, Stored
from hpc_brainage.store import addition
from hpc_brainage.store.building import Build
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import STATISTICS
from hpc_brainage.store.verify import verify

SCANS = 21


def rows_of(cohort: Cohort, first: int, last: int) -> Cohort:
    return cohort.take(np.arange(first, last))


def assert_same_content(one: Store, other: Store) -> None:
    """Everything but the recipe and the account, which say how a store came about."""
    pd.testing.assert_frame_equal(one.scans, other.scans)
    assert one.content_sha256 == other.content_sha256
    for key in other.modalities:
        np.testing.assert_array_equal(one.present(key), other.present(key))
        np.testing.assert_array_equal(one.checksums(key), other.checksums(key))
        np.testing.assert_array_equal(one.refused(key), other.refused(key))
        np.testing.assert_array_equal(one.scales(key), other.scales(key))
        rows = np.flatnonzero(other.present(key))
        np.testing.assert_array_equal(one.read(key, rows), other.read(key, rows))
        for name in STATISTICS:
            ours, theirs = (getattr(store.statistics(key), name) for store in (one, other))
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, err_msg=f"{key} {name}")


@pytest.mark.parametrize(
    ("steps", "workers"),
    [((13,), 1), ((13,), 3), ((8,), 2), ((1,), 1), ((20,), 1), ((4, 8), 3), (tuple(range(1, SCANS, 2)), 2)],
    ids=str,
)
def test_added_in_any_steps_the_store_is_that_of_all_scans_at_once(
    tmp_path: Path, steps: tuple[int, ...], workers: int
) -> None:
    cohort, _ = mixed_cohort(SCANS)
    sources = cohort.sources | {
        "smri/xhemi": cohort_of(
            cohort.scans, {surface(): measurements(surface(), SCANS)}, refuse={"smri/xhemi": [2, 7, 12, 13]}
        ).sources["smri/xhemi"]
    }
    cohort = replace(cohort, sources=sources)
    with small_shards():
        at_once = Store.open(convert(cohort, tmp_path / "at_once.zarr").store_path)
        path = convert(rows_of(cohort, 0, steps[0]), tmp_path / "grown.zarr").store_path
        for first, last in zip(steps, (*steps[1:], SCANS), strict=True):
            report = append(rows_of(cohort, first, last), path, workers=workers)
            assert report.skipped == 0
            assert verify(path) == []
    grown = Store.open(path)
    assert_same_content(grown, at_once)
    notes = grown.attributes["account"]["notes"]
    assert [
        f"were added to the {first} of the store" in note for first, note in zip(steps, notes, strict=True)
    ]


def test_scans_that_the_store_has_are_skipped_and_stay_as_they_are(tmp_path: Path) -> None:
    cohort, values = mixed_cohort(SCANS)
    path = convert(rows_of(cohort, 0, 13), tmp_path / "store.zarr").store_path
    other = rows_of(mixed_cohort(SCANS, seed=5)[0], 9, SCANS)
    report = append(other, path)
    assert report.skipped == 4
    assert "4 scans were there already and stay as they are" in " ".join(report.account.notes)
    store = Store.open(path)
    assert store.n_scans == SCANS
    kept = [row for row in range(13) if store.present("smri/table")[row]]
    np.testing.assert_array_equal(store.read("smri/table", kept), values["smri/table"][kept])
    assert verify(path) == []


def test_adding_the_same_scans_twice_leaves_nothing_to_do(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort(SCANS)
    path = convert(rows_of(cohort, 0, 13), tmp_path / "store.zarr").store_path
    append(cohort, path)
    before = hashes(tmp_path)
    report = append(cohort, path)
    assert report.nothing_to_do
    assert report.skipped == SCANS
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("what", ["modality", "features", "column"])
def test_what_the_store_has_no_room_for_is_refused_even_of_scans_that_it_has(
    tmp_path: Path, what: str
) -> None:
    scans, table = people(SCANS), features(7)
    first = cohort_of(scans, {table: measurements(table, SCANS)})
    path = convert(first, tmp_path / "store.zarr").store_path
    before = hashes(tmp_path)
    other = {
        "modality": cohort_of(
            scans,
            {m: measurements(m, SCANS) for m in (table, features(3, "connectomes", "fmri"))},
        ),
        "features": cohort_of(scans, {features(8): measurements(features(8), SCANS)}),
        "column": cohort_of(scans.assign(FIQ="high"), {table: measurements(table, SCANS)}),
    }[what]
    said = {"modality": "no fmri/connectomes", "features": "1 others", "column": "column 'FIQ'"}[what]
    with pytest.raises(StoreError, match=said):
        append(other, path)
    assert hashes(tmp_path) == before


def test_what_scans_of_the_store_have_meanwhile_is_not_taken_and_that_is_said(tmp_path: Path) -> None:
    scans, table, image = people(SCANS), features(7), volume()
    values = {m: measurements(m, SCANS) for m in (table, image)}
    some = np.arange(SCANS) < 9
    path = convert(cohort_of(scans, values, {"smri/vbm": some}), tmp_path / "store.zarr").store_path
    report = append(cohort_of(scans.assign(motion=0.2), values), path)
    assert report.nothing_to_do
    notes = " ".join(report.account.notes)
    assert f"{SCANS - 9} scans of the store have smri/vbm here and not there" in notes
    assert "no column 'motion'" in notes
    assert Store.open(path).present("smri/vbm").sum() == 9


def test_features_meet_by_name_in_whatever_order(tmp_path: Path) -> None:
    table, scans, values = features(7), people(10), measurements(features(7), 10)
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    turned = replace(table, features=tuple(table.features[i] for i in order))
    path = convert(cohort_of(scans[:6], {table: values[:6]}), tmp_path / "store.zarr").store_path
    append(cohort_of(scans[6:].reset_index(drop=True), {turned: values[6:][:, order]}), path)
    np.testing.assert_array_equal(Store.open(path).read("smri/table"), values)
    assert verify(path) == []


def test_what_the_added_scans_lack_is_missing_and_said(tmp_path: Path) -> None:
    table, image = features(7), volume()
    scans = people(10)
    first = cohort_of(scans[:6], {m: measurements(m, 6) for m in (table, image)})
    second = cohort_of(
        scans[6:].reset_index(drop=True).drop(columns="FIQ"), {table: measurements(table, 4)}
    )
    path = convert(first, tmp_path / "store.zarr").store_path
    report = append(second, path)
    store = Store.open(path)
    assert store.present("smri/vbm").tolist() == [True] * 6 + [False] * 4
    assert store.scans["FIQ"].isna().tolist()[6:] == [True] * 4
    assert "none of the added scans has smri/vbm" in report.account.notes
    assert "the added scans have no column 'FIQ'" in report.account.notes
    assert verify(path) == []


def test_a_further_column_of_the_added_scans_is_missing_for_the_others(tmp_path: Path) -> None:
    table, scans = features(7), people(10)
    path = convert(cohort_of(scans[:6], {table: measurements(table, 6)}), tmp_path / "s.zarr").store_path
    further = scans[6:].reset_index(drop=True).assign(euler=[1.0, 2.0, 3.0, 4.0], coil="32 channels")
    append(cohort_of(further, {table: measurements(table, 4)}), path)
    found = Store.open(path).scans
    assert found["euler"].isna().tolist() == [True] * 6 + [False] * 4
    assert found["coil"].tolist() == [""] * 6 + ["32 channels"] * 4
    assert verify(path) == []


def _integers(numbers: str, seed: int, count: int, scale: float = 0.5) -> dict[str, ModalitySource]:
    image, rng = volume(), np.random.default_rng(seed)
    kept = rng.integers(0, 200, (count, *image.shape)).astype(numbers)
    scaled = [ScaledIntegers(np.asfortranarray(one), scale + row, -row) for row, one in enumerate(kept)]
    has = np.ones(count, bool)
    return {image.key: ModalitySource(image, has, lambda row: scaled[row], "", Stored(numbers, "zyx"))}


def _of(scans: pd.DataFrame, sources: dict[str, ModalitySource]) -> Cohort:
    return Cohort("synthetic", scans.reset_index(drop=True), sources)


def test_integers_stay_integers_each_with_its_own_scale(tmp_path: Path) -> None:
    scans = people(10)
    first, second = _integers("int16", 0, 6), _integers("int16", 1, 4, scale=2.25)
    with small_shards():
        path = convert(_of(scans[:6], first), tmp_path / "store.zarr").store_path
        append(_of(scans[6:], second), path)
    store = Store.open(path)
    assert store.encoding("smri/vbm").stored == Stored("int16", "zyx")
    for row in range(10):
        source, at = (first, row) if row < 6 else (second, row - 6)
        np.testing.assert_array_equal(store.read("smri/vbm", [row])[0], source["smri/vbm"].values(at))
    assert verify(path) == []


def test_integers_are_widened_where_the_store_keeps_float32(tmp_path: Path) -> None:
    scans, image = people(10), volume()
    values = measurements(image, 6)
    added = _integers("int16", 1, 4)
    path = convert(cohort_of(scans[:6], {image: values}), tmp_path / "store.zarr").store_path
    append(_of(scans[6:], added), path)
    store = Store.open(path)
    assert not store.encoding("smri/vbm").is_scaled
    for row in range(4):
        np.testing.assert_array_equal(store.read("smri/vbm", [6 + row])[0], added["smri/vbm"].values(row))
    assert verify(path) == []


def _with(modality: Modality) -> Callable[[pd.DataFrame], Cohort]:
    return lambda scans: cohort_of(scans, {modality: measurements(modality, len(scans))})


_TABLE = features(7)
_ELSEWHERE = replace(volume(), affine=((2.0, 0, 0, -80.0), *volume().affine[1:]))  # type: ignore[index]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_with(features(8)), r"smri/table lacks 0 features of the store .*has 1 others \(region 7\)"),
        (_with(features(6)), r"smri/table lacks 1 features of the store \(region 6\)"),
        (
            _with(replace(_TABLE, units=("mm2", *_TABLE.units[1:]))),
            "region 0 is in mm in the store, and in mm2 in the added scans",
        ),
        (
            _with(volume((3, 4, 6))),
            r"has grid \(3, 4, 5\) in the store, and \(3, 4, 6\) in the added scans",
        ),
        (_with(_ELSEWHERE), "lies elsewhere in space in the added scans than in the store"),
        (_with(features(3, name="vbm")), "is volume in the store, and features in the added scans"),
        (_with(surface(2, 7)), "has other channels or vertices"),
        (
            _with(features(5, name="fc", role="fmri")),
            "the store has no fmri/fc, which the added scans have",
        ),
        (
            lambda scans: _of(scans, _integers("uint8", 1, len(scans))),
            "lies elsewhere in space|the store keeps smri/vbm as int16, the added images hold uint8",
        ),
        (
            lambda scans: _with(_TABLE)(scans.assign(FIQ="high")),
            "the column 'FIQ' is numbers in the store, and text in the added scans",
        ),
        (
            lambda scans: _with(_TABLE)(scans.assign(fiq=1.0)),
            "the column 'fiq' is text in the store, and numbers in the added scans",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_the_store_is_not_touched(
    tmp_path: Path, other: Callable[[pd.DataFrame], Cohort], message: str
) -> None:
    scans = people(10)
    made = cohort_of(scans[:6], {m: measurements(m, 6) for m in (_TABLE, surface())})
    path = convert(
        replace(made, sources=made.sources | _integers("int16", 0, 6)), tmp_path / "store.zarr"
    ).store_path
    before = hashes(tmp_path)
    with pytest.raises(StoreError, match=message) as refused:
        append(other(scans[6:].reset_index(drop=True)), path)
    assert refused.value.hint
    assert hashes(tmp_path) == before


def test_there_must_be_a_finished_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here"):
        append(mixed_cohort()[0], tmp_path / "store.zarr")
    assert not any(tmp_path.iterdir())


def test_the_account_keeps_the_lines_of_the_first_conversion(tmp_path: Path) -> None:
    def account(*who: str) -> Account:
        table = JoinedSource(
            "table.csv", 9, 6, only_here=((who[0], "", ""),), unmeasured=((who[1], "", ""),)
        )
        return Account((table,), (Refusal(who[2], "", "", "table.csv", "the age is 230"),))

    image, scans = volume(), people(10)
    first = cohort_of(scans[:6], {image: measurements(image, 6)}, refuse={"smri/vbm": [1]})
    second = cohort_of(
        scans[6:].reset_index(drop=True), {image: measurements(image, 4)}, refuse={"smri/vbm": [0]}
    )
    path = convert(replace(first, account=account("A", "B", "C")), tmp_path / "store.zarr").store_path
    append(replace(second, account=account("D", "E", "F")), path)
    table = pd.read_csv(tmp_path / "store.account.tsv", sep="\t", dtype=str, keep_default_na=False)
    said = {
        who: status for who, status in zip(table.participant_id, table.status, strict=True) if len(who) == 1
    }
    assert said == {
        "A": "unmatched", "B": "unmeasured", "C": "refused",
        "D": "unmatched", "E": "unmeasured", "F": "refused",
    }  # fmt: skip
    assert table.status.tolist().count("converted") == 8
    refused = table[(table.status == "refused") & (table.source == "smri/vbm")]
    assert refused.participant_id.tolist() == scans.participant_id[[1, 6]].tolist()
    assert not table.duplicated().any()


class _Halted:
    """An addition in a thread, halted when it loads the last scan; `go_on` lets it end."""

    def __init__(self, cohort: Cohort, path: Path) -> None:
        self.reached, self.free = threading.Event(), threading.Event()

        def waiting(load: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
            def wait(row: int) -> np.ndarray:
                if row == len(cohort) - 1:
                    self.reached.set()
                    assert self.free.wait(20)
                return load(row)

            return wait

        key = list(cohort.sources)[-1]
        source = cohort.sources[key]
        sources = cohort.sources | {key: replace(source, load=waiting(source.load))}
        work = replace(cohort, sources=sources)
        self.thread = threading.Thread(target=lambda: append(work, path, workers=1), daemon=True)
        self.thread.start()
        assert self.reached.wait(20)

    def go_on(self) -> None:
        self.free.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_every_old_scan_can_be_read_while_others_are_added(tmp_path: Path) -> None:
    modalities = (features(7), volume(), surface())
    values = {modality: measurements(modality, SCANS) for modality in modalities}
    whole = cohort_of(people(SCANS), values)
    with small_shards(longest=8, chunk_bytes=8 * 28):
        path = convert(rows_of(whole, 0, 13), tmp_path / "store.zarr").store_path
        opened_before = Store.open(path)
        for modality in modalities:
            opened_before.read(modality.key)  # it knows now where in the files the chunks lie
        shards = {name: hash_ for name, hash_ in hashes(path).items() if "/c.1" in name}
        at_work = _Halted(rows_of(whole, 13, SCANS), path)
        replaced = {name for name, hash_ in hashes(path).items() if shards.get(name, hash_) != hash_}
        assert replaced, "the last shard has been replaced by one with more scans"
        for store in (opened_before, Store.open(path)):
            assert store.n_scans == 13
            for modality, of_all in values.items():
                np.testing.assert_array_equal(store.read(modality.key), of_all[:13])
        (found,) = verify(path)
        assert found.key == "_build"
        assert "an addition of scans was begun and has not finished" in found.problem
        assert "--append" in found.to_do
        with pytest.raises(StoreError, match="scans are being added to this store"):
            append(rows_of(whole, 14, SCANS), path)
        at_work.go_on()
        for modality, of_all in values.items():
            np.testing.assert_array_equal(opened_before.read(modality.key), of_all[:13])
    assert verify(path) == []
    assert Store.open(path).n_scans == SCANS


def test_another_addition_may_follow_one_that_was_killed_when_only_tidying_up_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, _ = mixed_cohort(SCANS)
    path = convert(rows_of(cohort, 0, 8), tmp_path / "store.zarr").store_path

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hpc_brainage.store.building.Build.tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            append(rows_of(cohort, 8, 13), path)
    assert Store.open(path).n_scans == 13
    append(rows_of(cohort, 13, SCANS), path)
    assert verify(path) == []
    assert_same_content(Store.open(path), Store.open(convert(cohort, tmp_path / "o.zarr").store_path))


def test_the_command_says_what_was_added_and_what_was_skipped(tmp_path: Path) -> None:
    for number in range(5):
        image = write_image(tmp_path / "new" / "t1w" / f"sub-{number}_T1w.nii", voxels(number))
        if number < 3:
            (tmp_path / "old" / "t1w").mkdir(parents=True, exist_ok=True)
            (tmp_path / "old" / "t1w" / image.name).write_bytes(image.read_bytes())
    assert type_command(tmp_path, "convert", "old/t1w", "store.zarr").code == 0
    said = type_command(tmp_path, "convert", "new/t1w", "store.zarr", "--append")
    assert said.code == 0
    assert "2 scans were added to the 3 of the store; 3 scans were there already" in said.text
    assert "3 scans skipped, which had been converted before" in said.text
    assert "5 scans in the store" in said.text
    again = type_command(tmp_path, "convert", "new/t1w", "store.zarr", "--append")
    assert again.code == 0
    assert "nothing was left to do" in again.text
    assert "store.zarr (smri/t1w)" in again.text
    other = type_command(tmp_path, "convert", "new/t1w", "store.zarr")
    assert other.code == 3
    assert "--append adds scans to it" in other.text
    without = type_command(tmp_path, "convert", "new/t1w", "none.zarr", "--append")
    assert without.code == 3
    assert "there is no store here" in without.text


@pytest.mark.slow
def test_a_model_remembers_which_scans_of_a_grown_store_it_saw(tmp_path: Path) -> None:
    seen, new = planted_cohort(60, seed=1), planted_cohort(30, seed=2)
    convert(seen, tmp_path / "openbhb.zarr")
    settings = [word for setting in TINY for word in ("--set", setting)]
    assert type_command(tmp_path, "train", *settings).code == 0
    append(new, tmp_path / "openbhb.zarr")
    assert type_command(tmp_path, "score", "openbhb.zarr", "--out", "table").code == 0
    (path,) = [*tmp_path.glob("table.tsv"), *tmp_path.glob("table/*.tsv")]
    table = pd.read_csv(path, sep="\t", dtype={"participant_id": str}, keep_default_na=False)
    assert len(table) == 90
    members = table["members_used"].to_numpy()
    is_old = table["participant_id"].isin(seen.scans["participant_id"]).to_numpy()
    np.testing.assert_array_equal(table["in_training"].astype(str) == "True", is_old)
    assert not table["flags"].str.contains("id_in_training").any()
    assert set(members[is_old]) == {1}, "scored by the member that never saw them"
    assert set(members[~is_old]) == {2}


def halting(monkeypatch: pytest.MonkeyPatch, name: str, during: Callable[[], object]) -> None:
    """Let `during` happen once, just before a step of an addition."""
    step, left = getattr(append_module, name), [during]

    def at_that_moment(*arguments: object) -> object:
        if left:
            left.pop()()
        return step(*arguments)

    monkeypatch.setattr(append_module, name, at_that_moment)


def test_whose_place_is_taken_at_the_last_moment_leaves_the_new_store_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, path = mixed_cohort(SCANS)[0], tmp_path / "store.zarr"
    other = mixed_cohort(SCANS, seed=5)[0]
    convert(rows_of(cohort, 0, 13), path)
    halting(monkeypatch, "forget_description", lambda: convert(other, path, overwrite=True))
    with pytest.raises(StoreError, match="another conversion has taken this place"):
        append(cohort, path)
    assert verify(path) == []
    assert (
        Store.open(path).content_sha256
        == Store.open(convert(other, tmp_path / "o.zarr").store_path).content_sha256
    )


@pytest.mark.parametrize("step", ["before_of", "begin_addition", "forget_description", "lines_to_carry"])
def test_who_is_overtaken_by_the_same_addition_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    cohort, path = mixed_cohort(SCANS)[0], tmp_path / "store.zarr"
    with small_shards():
        convert(rows_of(cohort, 0, 13), path)
        append(cohort, shutil.copytree(path, tmp_path / "alone" / "store.zarr"))
        halting(monkeypatch, step, lambda: append(cohort, path))
        append(cohort, path)
    assert hashes(path) == hashes(tmp_path / "alone" / "store.zarr")
    assert verify(path) == []


@pytest.mark.parametrize("step", ["before_of", "begin_addition"])
def test_who_meets_another_addition_half_way_finishes_it_from_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The other one has replaced part of the description, and is killed."""
    cohort, path = mixed_cohort(SCANS)[0], tmp_path / "store.zarr"

    def killed_half_way() -> None:
        write = Build.write

        def dies(build: Build, key: str, pieces: list[bytes]) -> None:
            if key == "zarr.json":
                raise KeyboardInterrupt
            write(build, key, pieces)

        with monkeypatch.context() as patched:
            patched.setattr(Build, "write", dies)
            with pytest.raises(KeyboardInterrupt):
                append(cohort, path)

    with small_shards():
        convert(rows_of(cohort, 0, 13), path)
        append(cohort, shutil.copytree(path, tmp_path / "alone" / "store.zarr"))
        halting(monkeypatch, step, killed_half_way)
        append(cohort, path)
    assert hashes(path) == hashes(tmp_path / "alone" / "store.zarr")


def test_who_is_overtaken_by_another_addition_adds_to_what_is_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, path = mixed_cohort(SCANS)[0], tmp_path / "store.zarr"
    with small_shards():
        convert(rows_of(cohort, 0, 9), path)
        halting(monkeypatch, "begin_addition", lambda: append(rows_of(cohort, 9, 13), path))
        report = append(rows_of(cohort, 11, SCANS), path)
    assert report.skipped == 2
    assert verify(path) == []
    at_once = Store.open(convert(cohort, tmp_path / "at_once.zarr").store_path)
    assert Store.open(path).content_sha256 == at_once.content_sha256


def test_of_two_additions_begun_at_one_moment_the_later_leaves_the_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, path = mixed_cohort(SCANS)[0], tmp_path / "store.zarr"
    freeze = addition.freeze

    def too_late(build: Build) -> None:
        monkeypatch.setattr(addition, "freeze", freeze)
        with pytest.raises(KeyboardInterrupt):
            append(interrupted(rows_of(cohort, 13, SCANS)), path)
        freeze(build)

    with small_shards():
        convert(rows_of(cohort, 0, 13), path)
        monkeypatch.setattr(addition, "freeze", too_late)
        with pytest.raises(StoreError, match="scans are being added to this store") as refused:
            append(rows_of(cohort, 13, 17), path)
        assert "the same number of scans" in str(refused.value.expected)
        append(rows_of(cohort, 13, SCANS), path)
    assert verify(path) == []
    assert Store.open(path).n_scans == SCANS


def interrupted(cohort: Cohort) -> Cohort:
    """A cohort of which nothing can be loaded, as if the process were killed."""

    def load(row: int) -> np.ndarray:
        raise KeyboardInterrupt

    sources = {key: replace(source, load=load) for key, source in cohort.sources.items()}
    return replace(cohort, sources=sources)


@pytest.mark.parametrize("writes", [0, 1, 3, 6, 12, 20, 30, 40, 50])
def test_an_addition_that_was_interrupted_can_be_given_up_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    cohort, path = mixed_cohort(SCANS)[0], tmp_path / "store.zarr"
    scans = cohort.scans.assign(wave=2.0)  # a column that the store does not have
    with small_shards():
        convert(rows_of(cohort, 0, 9), path)
        before = Store.open(path).content_sha256
        left, write = [writes], Build.write

        def cut_off(build: Build, key: str, pieces: list[bytes]) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            write(build, key, pieces)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(Build, "write", cut_off)
            append(rows_of(replace(cohort, scans=scans), 0, 15), path, workers=1)
        assert not left[0], "an addition writes more files than that"
        with pytest.raises(StoreError, match=r"being added[\s\S]*--append --overwrite"):
            append(rows_of(cohort, 0, 12), path)
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(append_module, "begin_addition", interrupt)
            append(rows_of(cohort, 0, 12), path, overwrite=True)
        assert verify(path) == []
        assert Store.open(path).content_sha256 == before
        append(rows_of(cohort, 0, SCANS), path, overwrite=True)
        assert verify(path) == []
        assert_same_content(
            Store.open(path), Store.open(convert(cohort, tmp_path / "once.zarr").store_path)
        )


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
