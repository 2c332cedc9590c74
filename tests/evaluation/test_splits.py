"""Who is trained on and who is tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import planted_store
from sklearn.model_selection import KFold

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.evaluation.splits import (
    by_label,
    check_splits,
    leave_one_site_out,
    people_folds,
    plain_folds,
)
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import TrainingData, load_training_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return load_training_data(Store.open(planted_store(tmp_path_factory.mktemp("s"), 60)), RunConfig())


def renamed(data: TrainingData, **columns: list[str]) -> TrainingData:
    return replace(data, scans=data.scans.assign(**columns))


def test_folds_over_people_test_everybody_once_and_keep_a_person_s_scans_together(
    data: TrainingData,
) -> None:
    twice = renamed(data, participant_id=[f"p{i // 2}" for i in range(60)])
    splits = people_folds(twice, 5, seed=3)
    check_splits(twice, splits)
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(60))


def test_plain_folds_are_those_of_scikit_learn_and_train_on_whom_they_do_not_test(
    data: TrainingData,
) -> None:
    tested = np.array([has == "smri+fmri" for has in data.availability])
    rows = np.flatnonzero(tested)
    assert 0 < len(rows) < 60
    splits = plain_folds(data, 5, seed=0, tested=tested)
    known = KFold(5, shuffle=True, random_state=0).split(rows)
    for split, (train, test) in zip(splits, known, strict=True):
        assert split.test.tolist() == rows[test].tolist()
        assert set(split.train) == set(rows[train]) | set(np.flatnonzero(~tested))


def test_plain_folds_are_refused_where_people_have_several_scans(data: TrainingData) -> None:
    twice = renamed(data, participant_id=[f"p{i // 2}" for i in range(60)])
    with pytest.raises(TrainingError, match="some people have several"):
        plain_folds(twice, 5)


def test_nobody_of_a_site_that_is_left_out_is_trained_on(data: TrainingData) -> None:
    site = data.scans["site"].to_numpy()
    splits = leave_one_site_out(data)
    assert [split.name for split in splits] == ["site site 0", "site site 1", "site site 2"]
    for split in splits:
        assert len(set(site[split.test])) == 1
        assert set(site[split.train]).isdisjoint(site[split.test])
        assert len(split.train) + len(split.test) == 60


def test_people_scanned_at_two_sites_are_trained_on_for_neither(data: TrainingData) -> None:
    sites = ["north"] * 30 + ["south"] * 30
    people = ["traveller", *(f"p{i}" for i in range(58)), "traveller"]
    travelled = renamed(data, site=sites, participant_id=people)
    splits = leave_one_site_out(travelled)
    check_splits(travelled, splits)
    assert [len(split.train) for split in splits] == [29, 29]
    assert [len(split.test) for split in splits] == [30, 30]


def test_scans_of_an_unknown_site_are_trained_on_and_never_tested(data: TrainingData) -> None:
    sites = ["", *data.scans["site"].tolist()[1:]]
    splits = leave_one_site_out(renamed(data, site=sites))
    assert all(0 in split.train for split in splits)


def test_one_site_cannot_be_left_out(data: TrainingData) -> None:
    with pytest.raises(TrainingError, match="needs two sites"):
        leave_one_site_out(renamed(data, site=["here"] * 60))


def test_a_split_is_made_for_each_label() -> None:
    splits = by_label(np.array([2, 0, 2, 1]))
    assert [(split.name, split.train.tolist(), split.test.tolist()) for split in splits] == [
        ("fold 0", [0, 2, 3], [1]), ("fold 1", [0, 1, 2], [3]), ("fold 2", [1, 3], [0, 2]),
    ]  # fmt: skip
