"""Folds over people, and batches that use everybody once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import TrainingError
from hpc_brainage.training.folds import assign_folds, batches, epoch_order, hold_back


def scans(people: int, sessions: int = 1, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), sessions)
    return pd.DataFrame(
        {
            "participant_id": [f"p{i}" for i in person],
            "sex": np.array(["F", "M"])[draw.integers(0, 2, people)][person],
            "age": draw.uniform(6, 88, people)[person],
        }
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(5, 80), st.integers(1, 3), st.integers(2, 5), st.integers(0, 5))
def test_a_person_is_in_one_fold_whatever_the_order(
    people: int, sessions: int, folds: int, seed: int
) -> None:
    table = scans(people, sessions, seed)
    fold = assign_folds(table, [""] * len(table), folds, seed)
    assert table.assign(fold=fold).groupby("participant_id")["fold"].nunique().max() == 1
    assert set(fold) == set(range(folds)) or people < 2 * folds
    order = np.random.default_rng(seed).permutation(len(table))
    shuffled = assign_folds(table.iloc[order].reset_index(drop=True), [""] * len(table), folds, seed)
    assert np.array_equal(shuffled, fold[order])


def test_folds_have_the_same_ages_sexes_and_modalities() -> None:
    table = scans(500)
    has = np.where(np.arange(500) % 5 == 0, "smri", "smri+fmri")
    fold = assign_folds(table, list(has), 5, 0)
    for index in range(5):
        here = fold == index
        assert abs(table["age"][here].mean() - table["age"].mean()) < 1.5
        assert abs((table["sex"][here] == "F").mean() - (table["sex"] == "F").mean()) < 0.03
        assert abs((has[here] == "smri").mean() - 0.2) < 0.03


def test_fewer_people_than_folds_is_an_error() -> None:
    with pytest.raises(TrainingError, match="3 people cannot be dealt into 5 folds"):
        assign_folds(scans(3), [""] * 3, 5, 0)


def test_the_validation_set_is_of_the_given_rows_and_shares_no_person_with_the_rest() -> None:
    table = scans(100, sessions=2)
    rows = np.arange(0, 200, 2)[:80]
    held = hold_back(table, rows, 0.2, 1)
    assert set(held) <= set(rows)
    assert 10 <= len(held) <= 22
    left = np.setdiff1d(rows, held)
    assert not set(table["participant_id"].iloc[held]) & set(table["participant_id"].iloc[left])
    assert len(hold_back(table, rows, 0.0, 1)) == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(2, 70), st.integers(0, 3))
def test_an_epoch_takes_everybody_once_in_batches_of_at_least_half_the_size(
    n: int, size: int, seed: int
) -> None:
    order = epoch_order(np.arange(n) % 3, seed, 4)
    assert sorted(order) == list(range(n))
    pieces = batches(order, size)
    assert np.array_equal(np.concatenate(pieces), order)
    assert all(len(piece) >= size / 2 for piece in pieces) or n < size / 2


def test_every_batch_has_its_share_of_each_group() -> None:
    groups = (np.arange(640) % 8 == 0).astype(int)
    for piece in batches(epoch_order(groups, 0, 0), 64):
        assert 6 <= groups[piece].sum() <= 10


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    groups = np.zeros(50, dtype=int)
    assert not np.array_equal(epoch_order(groups, 0, 0), epoch_order(groups, 0, 1))
    assert np.array_equal(epoch_order(groups, 0, 1), epoch_order(groups, 0, 1))
