"""Which of the confounds a strategy removes, which volumes it leaves out, and what it refuses."""

from __future__ import annotations

import json
import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from bold_trees import MOTION, VOLUMES, confounds_frame, write_confounds
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.confounds import SHORTEST_SEGMENT, cleaning_of
from hpc_brainage.cohorts.reading import Confounds
from hpc_brainage.errors import ScanRefused

NAME = "sub-01_task-rest_run-1"
STRATEGIES = get_args(Confounds)


@pytest.fixture
def bold(tmp_path: Path) -> Path:
    """The name of an image with confounds beside it; the image itself is never opened here."""
    write_confounds(tmp_path / f"{NAME}_desc-confounds_timeseries.tsv", confounds_frame(0))
    return tmp_path / f"{NAME}_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"


def table(bold: Path) -> Path:
    return bold.with_name(f"{NAME}_desc-confounds_timeseries.tsv")


def rewrite(bold: Path, frame: pd.DataFrame) -> None:
    write_confounds(table(bold), frame)


@pytest.mark.parametrize(
    ("strategy", "regressors"),
    [("simple", 24 + 2 + 3), ("scrubbing", 24 + 8 + 3), ("compcor", 24 + 3 + 3), ("ica_aroma", 2 + 3)],
)
def test_each_strategy_removes_what_it_says(bold: Path, strategy: Confounds, regressors: int) -> None:
    cleaning = cleaning_of(bold, strategy, VOLUMES, 2.0)
    assert cleaning.regressors.shape == (VOLUMES, regressors)
    assert len(set(cleaning.names)) == regressors
    assert cleaning.detrend
    assert cleaning.volumes_left == VOLUMES - 1 - regressors - 1
    frame = confounds_frame(0)
    for place, name in enumerate(cleaning.names):
        np.testing.assert_allclose(cleaning.regressors[1:, place], frame[name][1:], rtol=1e-12)
        expected = frame[name][1] if "derivative" in name else frame[name][0]
        assert cleaning.regressors[0, place] == pytest.approx(expected), "n/a takes the next value"


def test_none_removes_nothing_but_the_volumes_before_the_steady_state(bold: Path) -> None:
    cleaning = cleaning_of(bold, "none", VOLUMES, 2.0)
    assert (cleaning.names, cleaning.not_steady, cleaning.detrend) == ((), 1, False)
    series = np.random.default_rng(0).normal(size=(VOLUMES, 3))
    np.testing.assert_allclose(cleaning.clean(series), series[1:] - series[1:].mean(axis=0), atol=1e-12)
    table(bold).unlink()
    assert len(cleaning_of(bold, "none", VOLUMES, 2.0).kept) == VOLUMES


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cleaning_is_the_residual_of_least_squares(bold: Path, strategy: Confounds) -> None:
    frame = confounds_frame(0, not_steady=3)
    frame.loc[60, "framewise_displacement"] = 0.9
    rewrite(bold, frame)
    cleaning = cleaning_of(bold, strategy, VOLUMES, 2.0)
    rng = np.random.default_rng(5)
    series = 1000 + rng.normal(size=(VOLUMES, 6)) + np.arange(VOLUMES)[:, None] * rng.normal(size=6)
    kept = cleaning.kept
    design = [np.ones(len(kept)), *cleaning.regressors[kept].T]
    if cleaning.detrend:
        design.append(np.arange(len(kept)))
    matrix = np.column_stack([column / np.linalg.norm(column) for column in design])
    weights = np.linalg.lstsq(matrix, series[kept], rcond=None)[0]
    np.testing.assert_allclose(cleaning.clean(series), series[kept] - matrix @ weights, atol=1e-7)


def test_a_constant_regressor_removes_nothing_and_nothing_warns(bold: Path) -> None:
    frame = confounds_frame(0)
    series = np.random.default_rng(5).normal(size=(VOLUMES, 4))
    without = cleaning_of(bold, "ica_aroma", VOLUMES, 2.0)
    rewrite(bold, frame.assign(cosine99=0.1))
    constant = cleaning_of(bold, "ica_aroma", VOLUMES, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cleaned = constant.clean(series)
    assert len(constant.names) == len(without.names) + 1
    np.testing.assert_allclose(cleaned, without.clean(series), atol=1e-12)


def test_scrubbing_takes_out_motion_and_short_pieces_and_counts_them(bold: Path) -> None:
    frame = confounds_frame(0, not_steady=2)
    frame.loc[[50, 54], "framewise_displacement"] = 0.51
    frame.loc[100, "std_dvars"] = 1.6
    frame.loc[[20, 30], "framewise_displacement"] = 0.5  # not above the threshold
    rewrite(bold, frame)
    cleaning = cleaning_of(bold, "scrubbing", VOLUMES, 2.0)
    assert sorted(set(range(VOLUMES)) - set(cleaning.kept)) == [0, 1, 50, 51, 52, 53, 54, 100]
    assert (cleaning.not_steady, cleaning.scrubbed) == (2, 6)
    assert "6 scrubbed and 2 before the steady state" in cleaning.describe()
    assert len(cleaning_of(bold, "simple", VOLUMES, 2.0).kept) == VOLUMES - 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 79), max_size=12, unique=True))
def test_after_scrubbing_no_piece_is_short_and_nothing_else_is_lost(
    tmp_path_factory: pytest.TempPathFactory, moved: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("scrub")
    bold = folder / f"{NAME}_space-MNI_desc-preproc_bold.nii.gz"
    frame = confounds_frame(0, volumes=80, not_steady=0)
    frame["framewise_displacement"] = 0.1
    frame.loc[moved, "framewise_displacement"] = 1.0
    rewrite(bold, frame)
    kept = set(cleaning_of(bold, "scrubbing", 80, 2.0).kept.tolist())
    assert not kept & set(moved)
    ends = [-1, *sorted(moved), 80]
    for start, stop in pairwise(ends):
        piece = set(range(start + 1, stop))
        whole = not moved or len(piece) >= SHORTEST_SEGMENT
        assert kept & piece == (piece if whole else set())


def test_a_missing_table_or_column_is_a_refusal_by_name(bold: Path) -> None:
    frame = confounds_frame(0)
    rewrite(bold, frame.drop(columns=["rot_y_power2", "csf"]))
    with pytest.raises(ScanRefused, match="lack rot_y_power2, csf"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)
    rewrite(bold, frame.drop(columns=["std_dvars"]))
    with pytest.raises(ScanRefused, match="lack std_dvars"):
        cleaning_of(bold, "scrubbing", VOLUMES, 2.0)
    table(bold).with_suffix(".json").unlink()
    with pytest.raises(ScanRefused, match=r"no .*timeseries\.json, which aCompCor needs"):
        cleaning_of(bold, "compcor", VOLUMES, 2.0)
    table(bold).with_suffix(".json").write_text(json.dumps({"a_comp_cor_00": {"Mask": "WM"}}))
    with pytest.raises(ScanRefused, match="no aCompCor of the combined mask"):
        cleaning_of(bold, "compcor", VOLUMES, 2.0)
    table(bold).with_suffix(".json").write_text("[1, 2")
    with pytest.raises(ScanRefused, match="cannot be read"):
        cleaning_of(bold, "compcor", VOLUMES, 2.0)
    table(bold).unlink()
    with pytest.raises(ScanRefused, match=rf"there is no {NAME}_desc-confounds_timeseries\.tsv"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)


def test_confounds_that_do_not_fit_the_image_are_refused(bold: Path) -> None:
    frame = confounds_frame(0)
    with pytest.raises(ScanRefused, match="150 rows, the image 151 volumes"):
        cleaning_of(bold, "simple", VOLUMES + 1, 2.0)
    hole = frame.copy()
    hole.loc[9, "trans_x"] = np.nan
    rewrite(bold, hole)
    with pytest.raises(ScanRefused, match="no number for trans_x in volume 10"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)
    hole = frame.copy()
    hole.loc[9, "framewise_displacement"] = np.nan
    rewrite(bold, hole)
    with pytest.raises(ScanRefused, match="how much it moved"):
        cleaning_of(bold, "scrubbing", VOLUMES, 2.0)
    words = frame.copy()
    words["csf"] = "high"
    rewrite(bold, words)
    with pytest.raises(ScanRefused, match="text where numbers should be"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)
    table(bold).write_bytes(b"\xff\xfe\x00damaged")
    with pytest.raises(ScanRefused, match="cannot be read"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)
    table(bold).write_bytes(b"")
    with pytest.raises(ScanRefused, match="cannot be read"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)


def test_a_missing_number_in_a_volume_that_is_left_out_does_no_harm(bold: Path) -> None:
    frame = confounds_frame(0, not_steady=3)
    frame.loc[2, "csf"] = np.nan
    rewrite(bold, frame)
    assert np.isfinite(cleaning_of(bold, "simple", VOLUMES, 2.0).regressors).all()


def test_a_long_run_without_cosines_is_refused_and_a_short_one_has_none(bold: Path) -> None:
    frame = confounds_frame(0)
    rewrite(bold, frame.drop(columns=[name for name in frame if name.startswith("cosine")]))
    with pytest.raises(ScanRefused, match="of a run of 300 s lack cosine00"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)
    with pytest.raises(ScanRefused, match="lack cosine00"):
        cleaning_of(bold, "simple", VOLUMES, None)
    assert len(cleaning_of(bold, "simple", VOLUMES, 0.8).names) == 26


def test_both_names_of_the_table_are_known_but_not_at_once(bold: Path) -> None:
    older = table(bold).with_name(f"{NAME}_desc-confounds_regressors.tsv")
    table(bold).rename(older)
    assert len(cleaning_of(bold, "simple", VOLUMES, 2.0).names) == 29
    shutil.copy(older, table(bold))
    with pytest.raises(ScanRefused, match="two tables of confounds"):
        cleaning_of(bold, "simple", VOLUMES, 2.0)


def test_a_table_of_the_first_generation_says_which_fmriprep_it_takes(bold: Path) -> None:
    frame = confounds_frame(0)[["csf", "white_matter"]].rename(columns={"csf": "CSF"})
    rewrite(bold, frame.assign(X=0.0, RotX=0.0, WhiteMatter=1.0, Cosine00=1.0, cosine00=1.0))
    with pytest.raises(ScanRefused, match="lack trans_x") as error:
        cleaning_of(bold, "simple", VOLUMES, 2.0)
    assert "before 1.2" in str(error.value)


@pytest.mark.real
@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor"])
@pytest.mark.parametrize(
    "sample",
    [
        "ds005625/sub-042_task-restingstate_desc-confounds_timeseries",
        "test-v21_desc-confounds_timeseries",
        "test_desc-confounds_regressors",
    ],
)
def test_three_generations_of_fmriprep_give_what_nilearn_gives(
    real_data: Path, tmp_path: Path, sample: str, strategy: Confounds
) -> None:
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    source = real_data / "format_samples" / "fmriprep" / f"{sample}.tsv"
    kind = sample.rsplit("_", 1)[1]
    for end in (".tsv", ".json"):
        shutil.copy(source.with_suffix(end), tmp_path / f"sub-1_task-rest_desc-confounds_{kind}{end}")
    bold = tmp_path / "sub-1_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    rows = len(pd.read_csv(source, sep="\t"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, kept = load_confounds_strategy(str(bold), strategy, demean=False)
    cleaning = cleaning_of(bold, strategy, rows, 3.0)
    assert set(cleaning.names) == set(theirs.columns)
    np.testing.assert_allclose(
        cleaning.regressors[cleaning.kept], theirs[list(cleaning.names)].to_numpy()[cleaning.kept]
    )
    np.testing.assert_array_equal(cleaning.kept, np.arange(rows) if kept is None else kept)
    assert {f"{axis}_derivative1_power2" for axis in MOTION} <= set(cleaning.names)
