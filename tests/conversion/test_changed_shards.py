"""Shards that are not those that were written are found before a store is finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conversion.synthetic import cohort_of, features, hashes, measurements, people, small_shards, volume

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.convert import convert, finalise, init
from hpc_brainage.conversion.parts import write_parts
from hpc_brainage.errors import StoreError
from hpc_brainage.store.verify import verify


def cohort() -> Cohort:
    """Five parts of four scans; those of the third part have no volume."""
    arrays = {modality: measurements(modality, 18) for modality in (features(7), volume())}
    return cohort_of(people(18), arrays, refuse={"smri/vbm": [8, 9, 10, 11]})


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def one_that_should_not_be(path: Path) -> None:
    path.with_name("c.2.0.0.0").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("change", "part"), [(longer, 1), (shorter, 1), (Path.unlink, 1), (one_that_should_not_be, 2)]
)
def test_a_shard_of_another_length_is_found_and_its_part_is_converted_again(
    tmp_path: Path, change: Callable[[Path], None], part: int
) -> None:
    with small_shards():
        build = init(cohort(), tmp_path / "store.zarr")
        write_parts(cohort(), build)
        change(tmp_path / "store.zarr" / "smri_vbm" / "c.1.0.0.0")
        with pytest.raises(StoreError, match=r"shards of 1 of 5 parts are not those[\s\S]*run .* again"):
            finalise(cohort(), build)
        assert [index for index in range(5) if not build.has_part(index)] == [part]
        assert not build.finished
        report = convert(cohort(), build.place)
        undisturbed = convert(cohort(), tmp_path / "other.zarr")
    assert report.skipped_parts == 3 + (part == 2)  # refused scans are tried again in any case
    assert verify(report.store_path) == []
    assert hashes(report.store_path) == hashes(undisturbed.store_path)


def test_several_parts_are_named_by_their_number(tmp_path: Path) -> None:
    with small_shards():
        build = init(cohort(), tmp_path / "store.zarr")
        write_parts(cohort(), build)
        for shard in ("smri_vbm/c.0.0.0.0", "smri_table/c.3.0"):
            longer(tmp_path / "store.zarr" / shard)
        with pytest.raises(StoreError, match="shards of 2 of 5 parts"):
            convert(cohort(), build.place, only_finish=True)
        assert [index for index in range(5) if not build.has_part(index)] == [0, 3]
