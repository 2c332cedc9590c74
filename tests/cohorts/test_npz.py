from __future__ import annotations

import io
import zipfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.npz import read_npz
from hpc_brainage.errors import CohortError

PAIRS = np.array(list(combinations(range(4), 2)))
DATA = np.arange(18, dtype=np.float16).reshape(3, 6)
IDS = np.array(["sub-a", "sub-b", "sub-c"])


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "fc.npz"
    np.savez(path, **arrays)
    return path


def test_names_rows_and_data_are_recognised_by_shape_and_kind(tmp_path: Path) -> None:
    names = np.array(list("uvwxyz"))
    found = read_npz(
        save(tmp_path, fc=DATA, who=IDS, edge=names, age=np.array([20.0, 30, 40])), ColumnMap()
    )
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, DATA)
    assert found.names == tuple("uvwxyz")
    assert found.id_column == "who"
    assert found.rows["who"].tolist() == IDS.tolist()
    assert found.rows["age"].tolist() == [20, 30, 40]


@pytest.mark.parametrize(
    ("labels", "indices"),
    [
        (np.array([10, 11, 12, 3455]), PAIRS),
        (np.array(["10", "11", "12", "3455"]), PAIRS),
        (np.array([10, 11, 12, 3455]), np.array([10, 11, 12, 3455])[PAIRS]),
    ],
)
def test_edges_are_named_by_the_labels_that_the_indices_mean(
    tmp_path: Path, labels: np.ndarray, indices: np.ndarray
) -> None:
    path = save(tmp_path, z=DATA, file_id=IDS, roi_id=labels, edge_i=indices[:, 0], edge_j=indices[:, 1])
    found = read_npz(path, ColumnMap())
    assert found.names == ("10--11", "10--12", "10--3455", "11--12", "11--3455", "12--3455")


def test_indices_beyond_the_labels_are_an_error(tmp_path: Path) -> None:
    path = save(
        tmp_path, z=DATA, file_id=IDS, roi=np.array([1, 2, 3]), i=PAIRS[:, 0] + 7, j=PAIRS[:, 1] + 7
    )
    with pytest.raises(CohortError, match="reach beyond the 3 labels"):
        read_npz(path, ColumnMap())


def test_an_ambiguous_file_lists_its_candidates_until_one_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, r=DATA, z=DATA * 2, who=IDS, edge=np.array(list("uvwxyz")))
    with pytest.raises(CohortError, match=r"r \(3, 6\) float16, z \(3, 6\) float16") as error:
        read_npz(path, ColumnMap())
    assert "::data=" in str(error.value)
    found = read_npz(path, ColumnMap(), {"data": "z"})
    np.testing.assert_array_equal(found.values, DATA * 2)
    with pytest.raises(CohortError, match="no array 'zz'"):
        read_npz(path, ColumnMap(), {"data": "zz"})


def test_two_lists_of_words_are_two_possible_identities(tmp_path: Path) -> None:
    path = save(tmp_path, z=DATA, one=IDS, two=IDS[::-1], edge=np.array(list("uvwxyz")))
    with pytest.raises(CohortError, match="identities of the scans"):
        read_npz(path, ColumnMap())
    assert read_npz(path, ColumnMap(), {"ids": "two"}).id_column == "two"
    assert read_npz(path, ColumnMap(id="one")).id_column == "one"


def test_as_many_scans_as_features_needs_the_names_to_be_named(tmp_path: Path) -> None:
    path = save(tmp_path, z=DATA[:, :3], subject_id=IDS, edge=np.array(list("uvw")))
    with pytest.raises(CohortError, match="names of the 3 features"):
        read_npz(path, ColumnMap())
    found = read_npz(path, ColumnMap(), {"names": "edge"})
    assert (found.names, found.id_column) == (("u", "v", "w"), "subject_id")


def test_pickled_objects_are_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    path = save(tmp_path, z=DATA, who=np.array([Bomb(), 1, 2], dtype=object))
    with pytest.raises(CohortError, match="pickled objects"):
        read_npz(path, ColumnMap())
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_missing_or_foreign_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = save(tmp_path, z=DATA, who=IDS, edge=np.array(list("uvwxyz")))
    whole = path.read_bytes()
    for content, what in ((whole[: len(whole) // 2], "damaged"), (b"", "no .npz"), (b"no zip", "no .npz")):
        path.write_bytes(content)
        with pytest.raises(CohortError, match=what):
            read_npz(path, ColumnMap())
    np.save(tmp_path / "one.npy", DATA)
    with pytest.raises(CohortError, match=r"no \.npz"):
        read_npz(tmp_path / "one.npy", ColumnMap())
    with pytest.raises(CohortError, match="missing"):
        read_npz(tmp_path / "none.npz", ColumnMap())


@pytest.mark.real
def test_the_abide_connectomes(real_data: Path) -> None:
    path = real_data / "abide1" / "fmri_fc_ho111_fisherz.npz"
    found = read_npz(path, ColumnMap())
    assert found.values.shape == (701, 6105)
    assert found.id_column == "file_id"
    assert (found.names[0], found.names[-1]) == ("10--11", "4801--4802")
    assert int(np.isnan(found.values).any(axis=1).sum()) == 175
    with np.load(path) as raw:
        np.testing.assert_array_equal(found.values, raw["fc_z"].astype(np.float32))


def test_an_array_that_claims_more_than_the_archive_holds_is_named(tmp_path: Path) -> None:
    small, header = io.BytesIO(), io.BytesIO()
    np.save(small, DATA)
    claim = {"descr": "<f2", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(header, claim)
    path = tmp_path / "fc.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fc.npy", header.getvalue() + small.getvalue()[-36:])
    with pytest.raises(CohortError, match=r"the array fc has \d+ bytes and should have 2000000000128"):
        read_npz(path, ColumnMap())


def test_arrays_that_are_not_needed_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, z=DATA, file_id=IDS, edge=np.array(list("uvwxyz")), volume=np.zeros((3, 4, 4, 4)))
    read: list[tuple[int, ...]] = []
    real = np.lib.format.read_array

    def watched(*args: Any, **kwargs: Any) -> np.ndarray:
        array = real(*args, **kwargs)
        read.append(array.shape)
        return array

    monkeypatch.setattr("numpy.lib._npyio_impl.format.read_array", watched)
    read_npz(path, ColumnMap())
    assert sorted(read) == [(3,), (3, 6), (6,)]


def test_bytes_are_utf_8_and_other_bytes_are_an_error(tmp_path: Path) -> None:
    for encoding in ("utf-8", "latin-1"):
        names = np.array([f"hörer{i}".encode(encoding) for i in range(6)])
        path = save(tmp_path, z=DATA, file_id=IDS, edge=names)
        if encoding == "utf-8":
            assert read_npz(path, ColumnMap()).names[0] == "hörer0"
        else:
            with pytest.raises(CohortError, match="the text in edge is not UTF-8"):
                read_npz(path, ColumnMap())


def test_an_array_too_large_for_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, z=DATA, file_id=IDS, edge=np.array(list("uvwxyz")))

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "load", full)
    with pytest.raises(CohortError, match="does not fit into memory"):
        read_npz(path, ColumnMap())
