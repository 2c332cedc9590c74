"""A pipeline cannot see test rows, whatever it tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import planted_store

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import TrainingError
from hpc_brainage.evaluation.baselines import baselines
from hpc_brainage.evaluation.pipelines import Fitted, SAAVAEPipeline, predict_held_out
from hpc_brainage.evaluation.splits import Split, people_folds
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput, load_training_data
from hpc_brainage.training.loop import member_seed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return load_training_data(Store.open(planted_store(tmp_path_factory.mktemp("s"), 90)), RunConfig())


@dataclass
class Spy:
    """Keeps what it is given, and predicts the number of its training scans."""

    name: str = "spy"
    depends_on_seed: bool = True
    trained: list[TrainingData] = field(default_factory=list)
    asked: list[TrainingData] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def fit(self, people: Sequence[TrainingData], seeds: Sequence[int] = ()) -> list[Fitted]:
        self.seeds += seeds
        self.trained += people
        told = zip(people, seeds or [0] * len(people), strict=True)
        return [_Told(self, len(part.scans) + seed / 10) for part, seed in told]


@dataclass
class _Told:
    spy: Spy
    value: float

    def predict(self, people: TrainingData) -> np.ndarray:
        self.spy.asked.append(people)
        return np.full(len(people.scans), self.value)


def test_a_pipeline_gets_the_training_rows_and_test_rows_without_ages(data: TrainingData) -> None:
    spy, splits = Spy(), people_folds(data, 3)
    predicted = predict_held_out(spy, data, splits)
    person = data.scans["participant_id"].to_numpy()
    for split, trained, asked in zip(splits, spy.trained, spy.asked, strict=True):
        assert trained.scans["participant_id"].tolist() == person[split.train].tolist()
        assert set(trained.scans["participant_id"]).isdisjoint(asked.scans["participant_id"])
        assert np.isnan(asked.age).all()
        assert set(asked.scans["site"]) | set(asked.scans["split"]) | set(asked.scans["diagnosis"]) == {""}
        assert predicted[0, split.test].tolist() == [len(split.train)] * len(split.test)
        for role, source in data.inputs.items():
            mine = asked.inputs[role]
            assert isinstance(source, FeatureInput)
            assert isinstance(mine, FeatureInput)
            np.testing.assert_array_equal(mine.x_NF, source.x_NF[split.test])
            np.testing.assert_array_equal(mine.present, source.present[split.test])
            assert len(trained.inputs[role].present) == len(split.train)


def test_no_two_members_have_the_same_draws_however_many_there_are() -> None:
    seeds = [
        member_seed(run, index) for run in (0, 1, 2, 2**31 - 1) for index in (*range(1000), 1000, 2500)
    ]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**63
    assert member_seed(3, 14) == 3014


def test_a_column_that_says_the_age_in_another_way_does_not_reach_a_predictor(data: TrainingData) -> None:
    told = replace(data, scans=data.scans.assign(age_in_months=12 * data.scans["age"]))
    assert "age_in_months" not in told.without_ages().scans
    assert list(told.without_ages().scans.columns)[:3] == ["participant_id", "session_id", "run"]
    assert told.take(np.array([4, 1])).scans["age_in_months"].tolist() == [
        12 * data.scans["age"][4], 12 * data.scans["age"][1],
    ]  # fmt: skip


def test_volumes_of_a_choice_of_scans_are_those_scans(tmp_path: Path) -> None:
    config = load_config(settings=["smri.tables=['vbm']", "smri.encoder='sfcn'", "smri.hidden=[4, 8]"])
    whole = load_training_data(Store.open(planted_store(tmp_path, 30, volumes=True)), config)
    rows = np.array([7, 3, 20])
    part, source = whole.take(rows).inputs["smri"], whole.inputs["smri"]
    assert isinstance(part, VolumeInput)
    assert isinstance(source, VolumeInput)
    np.testing.assert_array_equal(part.read(np.arange(3)).numpy(), source.read(rows).numpy())
    assert whole.take(rows).availability == [whole.availability[row] for row in rows]


def test_each_seed_has_a_row_and_a_pipeline_without_seeds_is_fitted_once(data: TrainingData) -> None:
    spy, splits = Spy(), people_folds(data, 3)
    predicted = predict_held_out(spy, data, splits, seeds=(5, 7))
    assert spy.seeds == [5, 5, 5, 7, 7, 7]
    assert len(spy.trained) == 6, "all at once, so that they can be stacked"
    np.testing.assert_allclose(predicted[1] - predicted[0], 0.2)
    steady = Spy(depends_on_seed=False)
    again = predict_held_out(steady, data, splits, seeds=(5, 7))
    assert steady.seeds == []
    assert len(steady.trained) == 3
    np.testing.assert_array_equal(again[0], again[1])


def test_scans_that_no_split_tests_have_no_prediction(data: TrainingData) -> None:
    split = Split("one", np.arange(10, 90), np.arange(5))
    predicted = predict_held_out(Spy(), data, [split])
    assert np.isfinite(predicted[0, :5]).all()
    assert np.isnan(predicted[0, 5:]).all()


def test_a_person_on_both_sides_is_refused(data: TrainingData) -> None:
    twice = replace(data, scans=data.scans.assign(participant_id=[f"p{i // 2}" for i in range(90)]))
    with pytest.raises(TrainingError, match="in the training part and in the test part"):
        predict_held_out(Spy(), twice, [Split("odd", np.arange(0, 90, 2), np.arange(1, 90, 2))])
    with pytest.raises(TrainingError, match="tested by several splits"):
        predict_held_out(Spy(), data, [Split(name, np.arange(50, 90), np.arange(5)) for name in "ab"])
    with pytest.raises(TrainingError, match="nobody to train on"):
        predict_held_out(Spy(), data, [Split("empty", np.arange(0), np.arange(5))])


def test_a_prediction_for_each_scan_is_asked_for(data: TrainingData) -> None:
    @dataclass
    class Short(Spy):
        def fit(self, people: Sequence[TrainingData], seeds: Sequence[int] = ()) -> list[Fitted]:
            @dataclass
            class One:
                def predict(self, people: TrainingData) -> np.ndarray:
                    return np.zeros(1)

            return [One() for _ in people]

    with pytest.raises(TrainingError, match="one age for each"):
        predict_held_out(Short(), data, people_folds(data, 3))


def test_test_people_s_ages_change_no_prediction(data: TrainingData) -> None:
    """For every simple predictor: other ages of the tested, the same predictions of them, bit by bit."""
    split = Split("one", np.arange(30, 90), np.arange(30))
    ages = data.scans["age"].to_numpy().copy()
    ages[:30] = 999.0
    other = replace(data, scans=data.scans.assign(age=ages))
    for pipeline in baselines(data, RunConfig()):
        np.testing.assert_array_equal(
            predict_held_out(pipeline, data, [split]),
            predict_held_out(pipeline, other, [split]),
            err_msg=pipeline.name,
        )


def test_permuted_ages_give_no_predictor_an_advantage_over_the_mean(data: TrainingData) -> None:
    """The control that leakage fails: with ages that belong to nobody, nothing beats a constant."""
    shuffled = np.random.default_rng(0).permutation(data.scans["age"].to_numpy())
    other = replace(data, scans=data.scans.assign(age=shuffled))
    splits = people_folds(other, 5)
    error = {
        pipeline.name: float(np.nanmean(np.abs(predict_held_out(pipeline, other, splits)[0] - shuffled)))
        for pipeline in baselines(data, RunConfig())
    }
    mean = error.pop("predicting the mean age")
    assert all(value > mean - 1.5 for value in error.values()), error


def test_the_model_itself_is_a_pipeline(data: TrainingData) -> None:
    tiny = load_config(settings=[
        "smri.components=8", "fmri.components=8", "smri.hidden=[8]", "fmri.hidden=[8]",
        "training.epochs=12", "training.batch_size=16", "training.learning_rate=5e-3",
        "training.device='cpu'",
    ])  # fmt: skip
    splits = people_folds(data, 2)
    predicted = predict_held_out(SAAVAEPipeline(tiny), data, splits, seeds=(0, 1))
    assert np.isfinite(predicted).all()
    assert (predicted[0] != predicted[1]).all()
    age = data.age
    assert np.abs(predicted[0] - age).mean() < np.abs(age.mean() - age).mean()


def test_an_ensemble_is_the_mean_of_its_members(data: TrainingData) -> None:
    tiny = load_config(settings=[
        "smri.components=8", "fmri.components=8", "smri.hidden=[8]", "fmri.hidden=[8]", "training.epochs=2",
        "training.batch_size=16", "training.ensemble=2", "training.device='cpu'",
    ])  # fmt: skip
    parts = [data.take(np.arange(60)), data.take(np.arange(30, 90))]
    fitted = SAAVAEPipeline(tiny).fit(parts, [4, 4])
    asked = data.take(np.arange(5)).without_ages()
    for both in fitted:
        alone = [replace(both, members=(member,)).predict(asked) for member in both.members]
        assert (alone[0] != alone[1]).all()
        np.testing.assert_allclose(both.predict(asked), np.mean(alone, axis=0))


def test_data_frames_of_a_part_are_numbered_from_zero(data: TrainingData) -> None:
    part = data.take(np.array([8, 2]))
    assert isinstance(part.scans.index, pd.RangeIndex)
    assert part.checksums == [data.checksums[8], data.checksums[2]]
