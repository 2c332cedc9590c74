from __future__ import annotations

import csv
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conversion.synthetic import (
    cohort_of,
    features,
    hashes,
    measurements,
    mixed_cohort,
    people,
    small_shards,
    volume,
)

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.conversion import convert as steps
from hpc_brainage.conversion.convert import convert, finalise, init, plan_for
from hpc_brainage.conversion.parts import write_parts
from hpc_brainage.errors import CohortError, EnvironmentLacks, StoreError
from hpc_brainage.store.building import Build
from hpc_brainage.store.reader import Store
from hpc_brainage.store.statistics import Statistics
from hpc_brainage.store.verify import verify


def account_lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_a_cohort_becomes_a_store_that_verifies(tmp_path: Path) -> None:
    cohort, values = mixed_cohort()
    report = convert(cohort, tmp_path / "mixed.zarr")
    some = np.logical_or.reduce([source.present for source in cohort.sources.values()])
    assert (report.converted, report.missing) == (some.sum(), (~some).sum())
    assert report.refused == ()
    assert not report.nothing_to_do
    assert verify(report.store_path) == []
    store = Store.open(report.store_path)
    for key, source in cohort.sources.items():
        rows = np.flatnonzero(source.present)
        np.testing.assert_array_equal(store.read(key, rows), values[key][rows])


def test_the_same_cohort_gives_the_same_bytes_wherever_it_is_put(tmp_path: Path) -> None:
    one = convert(mixed_cohort()[0], tmp_path / "here" / "a.zarr").store_path
    other = convert(mixed_cohort()[0], tmp_path / "there" / "b.zarr").store_path
    assert hashes(one) == hashes(other)


def test_parts_in_any_order_and_twice_give_the_same_bytes(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    with small_shards():
        one = convert(cohort, tmp_path / "one.zarr").store_path
        build = init(cohort, tmp_path / "other.zarr")
        for index in (5, 0, 3, 3, 1, 4, 2, 0):
            write_parts(cohort, init(cohort, tmp_path / "other.zarr"), [index])
        other = finalise(cohort, build).path
    assert hashes(one) == hashes(other)


def test_a_store_is_not_finished_before_its_parts_are(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    with small_shards():
        build = init(cohort, tmp_path / "store.zarr")
        assert write_parts(cohort, build, [0, 1, 2, 4, 5]) == 0
        with pytest.raises(StoreError, match="part 4 of 6 has not been converted"):
            finalise(cohort, build)
    with pytest.raises(StoreError, match="has not finished"):
        Store.open(build.place)


def test_finished_parts_are_not_loaded_again(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    calls: list[tuple[int, int]] = []
    with small_shards():
        build = init(cohort, tmp_path / "store.zarr")
        write_parts(cohort, build, [2])
        report = convert(
            only_rows(cohort, [*range(8), *range(12, 21)]),
            build.place,
            progress=lambda done, total: calls.append((done, total)),
        )
    assert (report.parts, report.skipped_parts) == (6, 1)
    assert calls[-1] == (63, 63)
    assert calls == sorted(calls)


def test_converting_again_has_nothing_to_do(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    first = convert(cohort, tmp_path / "store.zarr")
    before = hashes(tmp_path)
    again = convert(only_rows(cohort, []), tmp_path / "store.zarr")
    assert again.nothing_to_do
    assert (again.converted, again.missing) == (first.converted, first.missing)
    assert hashes(tmp_path) == before


def test_a_refused_scan_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    scans = people(6)
    cohort = cohort_of(
        scans,
        {features(4): measurements(features(4), 6), volume(): measurements(volume(), 6)},
        refuse={"smri/vbm": [2], "smri/table": [2, 4]},
    )
    for _ in range(2):  # a second run, which has nothing to do, gives the same account
        report = convert(cohort, tmp_path / "store.zarr")
        assert [(refusal.scan, refusal.source) for refusal in report.refused] == [
            ("sub-100000000001_ses-1", "smri/table"),
            ("sub-100000000002_ses-1", "smri/table"),
            ("sub-100000000001_ses-1", "smri/vbm"),
        ]
        assert {refusal.reason for refusal in report.refused} == {"is truncated; expected 1000 bytes"}
        assert (report.converted, report.missing) == (5, 1)
    store = Store.open(report.store_path)
    assert store.n_scans == 6
    assert store.present("smri/vbm").tolist() == [True, True, False, True, True, True]
    assert store.refused("smri/vbm").tolist() == ["", "", "is truncated; expected 1000 bytes", "", "", ""]
    assert store.attributes["account"]["refused_on_loading"] == 3
    assert verify(report.store_path) == []


@pytest.mark.parametrize(
    ("modality", "bad", "reason"),
    [
        (volume(), np.full((3, 4, 5), np.nan, np.float32), "NaN in 100.0%"),
        (volume(), np.zeros((3, 4, 6), np.float32), r"(3, 4, 6); expected (3, 4, 5)"),
        (volume(), np.full((3, 4, 5), 1e300), "too large for float32"),
        (volume(), np.zeros((3, 4, 5), complex), "complex128, not numbers"),
        (features(3), np.array([1, np.inf, 2], np.float32), "infinite"),
        (features(3), np.full(3, np.nan, np.float32), "no value at all"),
        (features(3), np.array(["1", "2", "3"]), "not numbers"),
        (features(3), np.array([1, 2, 3], dtype=object), "not numbers"),
    ],
)
def test_what_a_store_cannot_hold_is_refused(
    tmp_path: Path, modality: object, bad: np.ndarray, reason: str
) -> None:
    assert isinstance(modality, type(volume()))
    good = measurements(modality, 3)
    source = ModalitySource(modality, np.ones(3, bool), lambda row: bad if row == 1 else good[row])
    report = convert(Cohort("bad", people(3), {modality.key: source}), tmp_path / "store.zarr")
    (refusal,) = report.refused
    assert reason in refusal.reason
    assert (report.converted, report.missing) == (2, 1)
    assert verify(report.store_path) == []


def test_a_file_that_cannot_be_opened_does_not_stop_the_others(tmp_path: Path) -> None:
    def load(row: int) -> np.ndarray:
        if row == 1:
            raise PermissionError(13, "Permission denied", "/private/scan.npy")
        return np.ones(3, np.float32)

    cohort = Cohort("c", people(3), {"smri/table": ModalitySource(features(3), np.ones(3, bool), load)})
    report = convert(cohort, tmp_path / "store.zarr")
    assert [refusal.reason for refusal in report.refused] == ["cannot be read (Permission denied)"]


def test_an_error_in_the_code_of_a_reader_is_not_hidden(tmp_path: Path) -> None:
    def load(row: int) -> np.ndarray:
        raise KeyError(row)

    cohort = Cohort("c", people(3), {"smri/table": ModalitySource(features(3), np.ones(3, bool), load)})
    with pytest.raises(KeyError):
        convert(cohort, tmp_path / "store.zarr")


def test_a_cohort_without_scans_or_measurements_is_an_error(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    with pytest.raises(CohortError, match="has no scans"):
        convert(cohort.take(np.array([], dtype=int)), tmp_path / "store.zarr")
    with pytest.raises(CohortError, match="has no measurements"):
        convert(Cohort("c", people(3), {}), tmp_path / "store.zarr")
    assert list(tmp_path.iterdir()) == []


def test_other_content_replaces_a_store_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    convert(mixed_cohort(seed=0)[0], path)
    before = hashes(path)
    with pytest.raises(StoreError, match=r"already there[\s\S]*--overwrite"):
        convert(mixed_cohort(seed=1)[0], path)
    assert hashes(path) == before
    convert(mixed_cohort(seed=1)[0], path, overwrite=True)
    other = convert(mixed_cohort(seed=1)[0], tmp_path / "other.zarr").store_path
    assert hashes(path) == hashes(other) != before


def test_a_conversion_begun_with_other_input_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with small_shards():
        write_parts(mixed_cohort(seed=0)[0], init(mixed_cohort(seed=0)[0], path), [0])
        with pytest.raises(StoreError, match=r"another conversion[\s\S]*table of scans[\s\S]*--overwrite"):
            convert(mixed_cohort(seed=1)[0], path)
        convert(mixed_cohort(seed=1)[0], path, overwrite=True)
        other = convert(mixed_cohort(seed=1)[0], tmp_path / "other.zarr").store_path
    assert hashes(path) == hashes(other)


@pytest.mark.parametrize("content", ["notes.txt", "zarr.json", "_build/plan.json", "_build/notes.txt"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_not_ours_is_never_touched(tmp_path: Path, content: str, overwrite: bool) -> None:
    path = tmp_path / "precious"
    (path / content).parent.mkdir(parents=True)
    (path / content).write_text('{"attributes": {}}')
    with pytest.raises(StoreError, match="left as it is"):
        convert(mixed_cohort()[0], path, overwrite=overwrite)
    assert list(hashes(path)) == [content]


def test_a_file_in_the_way_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "store.zarr").write_text("precious")
    with pytest.raises(StoreError, match="left as it is"):
        convert(mixed_cohort()[0], tmp_path / "store.zarr", overwrite=True)
    assert (tmp_path / "store.zarr").read_text() == "precious"


@pytest.mark.parametrize("left", [None, "_build/0123456789abcdef/tmpk3j2.tmp"])
def test_an_empty_folder_and_one_of_a_run_killed_at_once_are_taken(
    tmp_path: Path, left: str | None
) -> None:
    path = tmp_path / "store.zarr"
    (path / "_build").mkdir(parents=True)
    if left:
        (path / left).parent.mkdir()
        (path / left).write_text("{")
    assert verify(convert(mixed_cohort()[0], path).store_path) == []


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Build, manifest: object) -> None:
        raise OSError(28, "No space left on device")

    cohort, _ = mixed_cohort()
    with monkeypatch.context() as patched:
        patched.setattr(Build, "save_part", full)
        with pytest.raises(EnvironmentLacks, match=r"No space left on device[\s\S]*same command again"):
            convert(cohort, tmp_path / "store.zarr")
    assert verify(convert(cohort, tmp_path / "store.zarr").store_path) == []


def test_the_plan_of_a_cohort_is_the_same_whenever_it_is_made() -> None:
    assert plan_for(mixed_cohort()[0]).sha256 == plan_for(mixed_cohort()[0]).sha256
    assert plan_for(mixed_cohort()[0]).sha256 != plan_for(mixed_cohort(seed=1)[0]).sha256


def test_the_account_names_every_scan_of_every_source(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    account = Account(
        sources=(
            JoinedSource(
                "side.csv", 30, 20, only_here=(("9_ses-2", "2", ""),), unmeasured=(("=o\udcff", "", ""),)
            ),
        ),
        refusals=(Refusal("=cmd()", "1", "", "people.csv", "-3 years\tis no age"),),
        notes=("a note",),
    )
    cohort = Cohort(cohort.name, cohort.scans, cohort.sources, account, {"reader": "test"})
    report = convert(cohort, tmp_path / "mixed.zarr")
    lines = account_lines(report.account_path)
    assert report.account_path == tmp_path / "mixed.account.tsv"
    statuses = [line["status"] for line in lines]
    assert statuses.count("converted") == report.converted
    assert statuses.count("missing") == report.missing
    assert lines[21] == {
        "participant_id": "'=cmd()",
        "session_id": "1",
        "run": "",
        "source": "people.csv",
        "status": "refused",
        "reason": "'-3 years is no age",
    }
    assert [(line["participant_id"], line["session_id"], line["status"]) for line in lines[22:]] == [
        ("9_ses-2", "2", "unmatched"),
        ("'=o\\udcff", "", "unmeasured"),
    ]
    kept = Store.open(report.store_path).attributes
    assert kept["account"] == {
        "sources": [
            {"source": "side.csv", "rows": 30, "matched": 20, "only_here": 1, "without": 0, "unmeasured": 1}
        ],
        "refused": 1,
        "notes": ["a note"],
        "refused_on_loading": 0,
    }
    assert kept["recipe"] == {"reader": "test"}


def only_rows(cohort: Cohort, rows: list[int]) -> Cohort:
    """The same cohort, in which loading any other row is an error of the test."""

    def guarded(source: ModalitySource) -> ModalitySource:
        def load(row: int) -> np.ndarray:
            assert row in rows, f"row {row} was loaded again"
            return source.load(row)

        return ModalitySource(source.modality, source.present, load)

    sources = {key: guarded(source) for key, source in cohort.sources.items()}
    return Cohort(cohort.name, cohort.scans, sources, cohort.account, cohort.recipe)


def test_what_the_parts_report_is_not_all_in_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a wide table, the statistics of all parts together are larger than its shards."""
    table, alive = features(7), {}
    cohort = cohort_of(people(80), {table: measurements(table, 80)})

    def counting(of: object, name: str) -> None:
        step = getattr(of, name)

        def counted(*arguments: object) -> object:
            alive[name] = sum(isinstance(known, Statistics) for known in gc.get_objects())
            return step(*arguments)

        monkeypatch.setattr(of, name, counted)

    counting(Build, "save_part")
    counting(steps, "finish_store")
    before = sum(isinstance(known, Statistics) for known in gc.get_objects())
    with small_shards():
        report = convert(cohort, tmp_path / "store.zarr")
    assert report.parts == 20
    assert set(alive) == {"save_part", "finish_store"}
    assert max(alive.values()) - before < 6


def test_the_number_of_threads_of_blas_does_not_change_a_byte(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from conversion.synthetic import cohort_of, features, hashes, measurements, people, volume
from hpc_brainage.conversion.convert import convert
images = volume((90, 97, 91))  # long enough for BLAS to share it among threads
values = {images: measurements(images, 2)}
cohort = cohort_of(people(2), values, refuse={images.key: [0]})  # which is nothing but zeros
convert(cohort, Path(sys.argv[1]))
print(hashes(Path(sys.argv[1])))
"""
    found = set()
    for threads in ("1", "2", "4"):
        environment = {
            **os.environ,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / f"{threads}.zarr")],
            env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1
