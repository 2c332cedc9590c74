from __future__ import annotations

import pytest
from conversion.synthetic import features, surface, volume

from hpc_brainage.errors import StoreError
from hpc_brainage.modality import AXES, NUMBERS, Stored
from hpc_brainage.store.schema import (
    COMPRESSIONS,
    Encoding,
    arrays_of,
    bytes_per_scan,
    check_names,
    cut,
    dimensions,
    encoding_of,
    lay_out,
    shard_key,
)

MIB = 1 << 20


def power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@pytest.mark.parametrize("n", [1, 10, 284, 476, 1036, 4000, 6105, 300_000])
def test_a_chunk_of_features_is_a_power_of_two_scans_and_about_two_mebibytes(n: int) -> None:
    modality = features(n)
    part, layouts = lay_out([modality])
    layout = layouts[modality.key]
    assert power_of_two(layout.chunk_scans)
    size = layout.chunk_scans * bytes_per_scan(modality)
    assert size <= 2 * MIB or layout.chunk_scans == 1
    assert size > MIB or layout.chunk_scans in (1, 4096)
    assert part == layout.shard_scans


def test_openbhb_volumes_make_shards_of_64_to_128_mebibytes_and_parts_are_whole_shards() -> None:
    openbhb = [
        features(284, "vbm_roi"),
        features(476, "desikan_roi"),
        features(1036, "destrieux_roi"),
        volume((121, 145, 121), "cat12vbm"),
        volume((182, 218, 182), "quasiraw"),
        surface(8, 163842),
    ]
    part, layouts = lay_out(openbhb)
    assert part == 64
    for modality in openbhb:
        layout = layouts[modality.key]
        assert part % layout.shard_scans == 0
        assert layout.shard_scans % layout.chunk_scans == 0
        if modality.kind != "features":
            assert layout.chunk_scans == 1
            assert 64 * MIB <= layout.shard_scans * bytes_per_scan(modality) <= 128 * MIB


def test_a_modality_without_values_is_refused() -> None:
    with pytest.raises(StoreError, match="empty modality"):
        lay_out([volume((0, 3, 3))])


def test_a_store_without_modalities_is_refused() -> None:
    with pytest.raises(StoreError, match="nothing to store"):
        check_names([])


def test_modalities_whose_arrays_would_collide_are_refused() -> None:
    with pytest.raises(StoreError, match="smri_table_present"):
        check_names([(features(2), Encoding()), (features(2, "table_present"), Encoding())])


def test_the_scale_of_integers_takes_names_too() -> None:
    other = volume(name="vbm_slope")
    check_names([(volume(), Encoding()), (other, Encoding())])
    with pytest.raises(StoreError, match="smri_vbm_slope"):
        check_names([(volume(), Encoding(Stored("int16"))), (other, Encoding())])


def test_every_array_of_a_modality_has_its_name_in_front() -> None:
    for modality in (features(3), volume(), surface()):
        plain, scaled = (arrays_of(modality, Encoding(Stored(numbers))) for numbers in ("float32", "int16"))
        assert all(name.startswith(modality.array_name) for name in scaled)
        assert set(scaled) - set(plain) == {f"{modality.array_name}_slope", f"{modality.array_name}_offset"}
        assert len(dimensions(modality)) == 1 + len(modality.shape)


def test_cut_covers_every_row_once() -> None:
    assert cut(0, 4) == []
    assert cut(9, 4) == [range(0, 4), range(4, 8), range(8, 9)]


def test_a_shard_is_one_file_in_the_folder_of_its_array() -> None:
    assert shard_key(volume(), 3) == "smri_vbm/c.3.0.0.0"
    assert shard_key(features(5), 0) == "smri_table/c.0.0"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_wanted_compression_is_that_of_images_and_tables_are_packed_well(compression: str) -> None:
    stored = Stored("int16", "zyx")
    assert encoding_of(volume(), stored, compression) == Encoding(stored, compression)
    assert encoding_of(surface(), Stored(), compression).compression == compression
    assert encoding_of(features(3), Stored(), compression) == Encoding(Stored(), "zstd")


def test_an_encoding_in_a_record_is_the_same_when_it_is_read() -> None:
    for numbers in NUMBERS:
        for axes in AXES:
            encoding = Encoding(Stored(numbers, axes), "none")
            assert Encoding.from_record(encoding.describe()) == encoding
            assert encoding.is_scaled == (numbers != "float32")
