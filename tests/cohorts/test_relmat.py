"""Relational matrices: what becomes an edge, under which name, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from battery import check_cohort
from bids_trees import ROIS, write_relmat

from hpc_brainage.cohorts.relmat import read_relmats
from hpc_brainage.errors import CohortError, ScanRefused

NAME = "sub-{}_task-rest_atlas-Gordon_stat-pearsoncorrelation_relmat.tsv"


def matrices(folder: Path, count: int = 3) -> list[Path]:
    return [write_relmat(folder / NAME.format(f"0{person}"), person) for person in range(count)]


def test_correlations_become_fisher_z_under_the_names_of_edges(tmp_path: Path) -> None:
    files = matrices(tmp_path)
    cohort = check_cohort(lambda: read_relmats(files))
    (source,) = cohort.sources.values()
    assert source.modality.key == "fmri/fc"
    assert source.modality.features[:2] == (f"{ROIS[0]}--{ROIS[1]}", f"{ROIS[0]}--{ROIS[2]}")
    given = pd.read_csv(files[1], sep="\t", index_col="Node").to_numpy()
    np.testing.assert_allclose(source.load(1), np.arctanh(given[np.triu_indices(4, 1)]), rtol=1e-6)


def test_other_relations_keep_their_numbers_and_say_what_they_are(tmp_path: Path) -> None:
    file = write_relmat(tmp_path / "sub-01_atlas-Gordon_stat-coherence_relmat.tsv", 0)
    (source,) = read_relmats([file]).sources.values()
    assert source.modality.features[0] == f"coherence:{ROIS[0]}--{ROIS[1]}"
    given = pd.read_csv(file, sep="\t", index_col="Node").to_numpy()
    np.testing.assert_allclose(source.load(0), given[np.triu_indices(4, 1)], rtol=1e-6)
    with pytest.raises(CohortError, match="different things: coherence, pearsoncorrelation"):
        read_relmats([file, *matrices(tmp_path)[1:]])


def test_numbered_rois_keep_their_zeros(tmp_path: Path) -> None:
    path = tmp_path / NAME.format("01")
    path.write_text("Node\t001\t002\n001\t1\t0.5\n002\t0.5\t1\n")
    (source,) = read_relmats([path]).sources.values()
    assert source.modality.features == ("001--002",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "not readable"), ("Node\ta\tb\na\t1\t0.5\n", "same ROIs"),
     ("Node\ta\tb\nb\t1\t0\na\t0\t1\n", "same ROIs"), ("Node\ta\ta\na\t1\t0\na\t0\t1\n", "same ROIs"),
     ("Node\ta\tb\na\t1\t0.5\nb\t0.4\t1\n", "not symmetric"),
     ("Node\ta\tb\na\t1\tx\nb\tx\t1\n", "holds text"), ("Node\ta\tb\tc\n" * 2 + "a\t1\n", "holds text"),
     ("Node\ta\tb\na\t1\t1.5\nb\t1.5\t1\n", "beyond 1"), ("Node\ta\tb\na\t1\tinf\nb\tinf\t1\n", "infinite"),
     ("Node\ta\tb\na\t1\tn/a\nb\tn/a\t1\n", "no pair of ROIs"),
     (b"\x00\xff\xfe", "not readable")],
)  # fmt: skip
def test_a_matrix_that_cannot_be_one_is_refused(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = tmp_path / NAME.format("09")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CohortError, match="none of the 1 matrices") as error:
        read_relmats([path])
    assert reason in str(error.value)
    cohort = read_relmats([*matrices(tmp_path), path])
    assert len(cohort) == 3
    assert cohort.account.refusals[0].scan == "sub-09"


def test_other_rois_than_most_and_a_change_after_the_look_are_refused(tmp_path: Path) -> None:
    files = matrices(tmp_path)
    odd = tmp_path / NAME.format("09")
    odd.write_text("Node\ta\tb\na\t1\t0.5\nb\t0.5\t1\n")
    cohort = read_relmats([*files, odd])
    assert "its 2 ROIs are others than the 4 of most files" in cohort.account.refusals[0].reason
    files[0].write_text(odd.read_text())
    with pytest.raises(ScanRefused, match="has changed"):
        cohort.sources["fmri/fc"].load(0)
