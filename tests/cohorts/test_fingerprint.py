"""Files of single scans that were mended or replaced: every reader notices their size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bids_trees import write_relmat, write_series, xcpd
from freesurfer_trees import write_subject
from nifti_files import voxels, write_image

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.relmat import read_relmats
from hpc_brainage.cohorts.sources import open_cohort

CAT12 = "<S><a><names><item>lHip</item></names><data><Vgm>{}</Vgm></data></a></S>"


def images(folder: Path) -> Path:
    paths = [write_image(folder / f"sub-{person}_T1w.nii.gz", voxels(person)) for person in range(2)]
    return paths[1]


def series(folder: Path) -> Path:
    folder.mkdir()
    paths = [write_series(folder / f"sub-{person}_timeseries.tsv", person) for person in range(2)]
    return paths[1]


def matrices(folder: Path) -> Path:
    folder.mkdir()
    name = "sub-{}_atlas-X_stat-pearsoncorrelation_relmat.tsv"
    return [write_relmat(folder / name.format(person), person) for person in range(2)][1]


def derivatives(folder: Path) -> Path:
    xcpd(folder)
    return sorted(folder.rglob("*_timeseries.tsv"))[0]


def subjects(folder: Path) -> Path:
    write_subject(folder / "sub-1")
    return folder / "sub-1" / "stats" / "lh.aparc.stats"


def cat12(folder: Path) -> Path:
    folder.mkdir()
    for person in range(2):
        (folder / f"catROI_sub-{person}.xml").write_text(CAT12.format(f"[{person + 1}]"))
    return folder / "catROI_sub-1.xml"


def longer(file: Path) -> None:
    """The same content, in a file of another size."""
    if file.name.endswith(".nii.gz"):
        write_image(file, voxels(1) // 2)
    elif file.suffix == ".stats":
        file.write_text("# one more line\n" + file.read_text())
    elif file.suffix == ".xml":
        file.write_text(CAT12.format("[2.000]"))
    else:
        file.write_text(file.read_text() + "\n")


def opened(folder: Path) -> Cohort:
    files = sorted(folder.glob("*_relmat.tsv"))
    return read_relmats(files) if files else open_cohort(folder)


def marks(folder: Path) -> dict[str, str]:
    return {key: source.fingerprint for key, source in opened(folder).sources.items()}


@pytest.mark.parametrize("write", [images, series, matrices, derivatives, subjects, cat12])
def test_a_file_of_another_size_makes_another_fingerprint_and_another_place_does_not(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    first, second = tmp_path / "first" / "folder", tmp_path / "second" / "folder"
    first.parent.mkdir()
    second.parent.mkdir()
    file = write(first)
    before = marks(first)
    assert all(before.values())
    first.rename(second)
    assert marks(second) == before
    longer(second / file.relative_to(first))
    after = marks(second)
    assert list(after) == list(before)
    assert after != before


def test_the_order_of_files_does_not_matter_and_a_missing_one_is_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(path.name)
    whole = fingerprint_of(paths)
    assert fingerprint_of(reversed(paths)) == whole
    paths[1].unlink()
    assert fingerprint_of(paths) not in (whole, "")
    paths[1].write_text("")
    assert fingerprint_of(paths) != whole
    assert fingerprint_of([]) == ""
