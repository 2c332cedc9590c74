"""Simple predictors: what they are, what they do with a missing modality, and what they reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import planted_store

from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.conversion.convert import convert
from hpc_brainage.evaluation.baselines import Constant, LateFusion, Regression, baselines
from hpc_brainage.evaluation.learners import Ridge, SupportVectors
from hpc_brainage.evaluation.pipelines import predict_held_out
from hpc_brainage.evaluation.splits import by_label, leave_one_site_out, people_folds, plain_folds
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import TrainingData, load_training_data

CONFIG = RunConfig()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return load_training_data(Store.open(planted_store(tmp_path_factory.mktemp("s"), 120)), CONFIG)


def mae(predicted: np.ndarray, data: TrainingData) -> float:
    return float(np.nanmean(np.abs(predicted - data.age)))


def test_a_constant_is_of_the_other_folds_only(data: TrainingData) -> None:
    four = data.take(np.arange(4))
    four = replace(four, scans=four.scans.assign(age=[10.0, 20.0, 60.0, 70.0]))
    splits = by_label(np.array([0, 0, 1, 1]))
    assert predict_held_out(Constant("mean", np.mean), four, splits)[0].tolist() == [65.0, 65.0, 15.0, 15.0]
    ages = four.scans.assign(age=[10.0, 20.0, 99.0, 70.0])
    three = replace(four, scans=ages)
    splits = by_label(np.array([0, 1, 1, 1]))
    assert predict_held_out(Constant("median", np.median), three, splits)[0, 0] == 70.0


def test_all_simple_predictors_beat_a_constant_where_there_is_a_signal(data: TrainingData) -> None:
    splits = people_folds(data, 5)
    errors = {p.name: mae(predict_held_out(p, data, splits)[0], data) for p in baselines(data, CONFIG)}
    constants = [errors.pop(f"predicting the {what} age") for what in ("mean", "median")]
    assert len(errors) == 12
    assert all(error < 0.6 * min(constants) for error in errors.values()), errors
    fused = [error for name, error in errors.items() if name.startswith("late fusion")]
    alone = [error for name, error in errors.items() if " beside " not in name and "fusion" not in name]
    assert min(fused) < min(alone)


def test_names_say_what_each_is_and_are_all_different(data: TrainingData) -> None:
    names = [pipeline.name for pipeline in baselines(data, CONFIG)]
    assert len(set(names)) == len(names)
    assert "late fusion, smri SVR + fmri ridge, log age" in names
    assert "ridge, smri beside fmri" in names


def test_a_cohort_with_one_modality_has_no_fusion(data: TrainingData) -> None:
    only = replace(data, inputs={"smri": data.inputs["smri"]})
    names = [pipeline.name for pipeline in baselines(only, CONFIG)]
    assert not any("fusion" in name or "beside" in name for name in names)
    assert "SVR, smri, log age" in names


def test_from_one_modality_a_person_without_it_has_no_prediction(data: TrainingData) -> None:
    splits = people_folds(data, 4)
    predicted = predict_held_out(Regression(Ridge(), CONFIG, ("fmri",), "years"), data, splits)[0]
    np.testing.assert_array_equal(np.isfinite(predicted), data.inputs["fmri"].present)


def test_fusion_gives_a_person_with_one_modality_the_age_from_that_one(data: TrainingData) -> None:
    splits = people_folds(data, 4)
    fused = predict_held_out(LateFusion((Ridge(), Ridge()), CONFIG, ("smri", "fmri"), "log"), data, splits)[
        0
    ]
    alone = {
        role: predict_held_out(Regression(Ridge(), CONFIG, (role,), "log"), data, splits)[0]
        for role in ("smri", "fmri")
    }
    for role, other in (("smri", "fmri"), ("fmri", "smri")):
        only = data.inputs[role].present & ~data.inputs[other].present
        assert only.any()
        np.testing.assert_allclose(fused[only], alone[role][only])
    both = data.inputs["smri"].present & data.inputs["fmri"].present
    low, high = np.minimum(alone["smri"], alone["fmri"]), np.maximum(alone["smri"], alone["fmri"])
    assert ((fused >= low - 1e-9) & (fused <= high + 1e-9))[both].all()


def test_a_useless_modality_gets_no_weight(data: TrainingData) -> None:
    """fMRI that is pure noise: the weight, chosen on training people, goes to sMRI."""
    source = data.inputs["fmri"]
    noise = np.random.default_rng(0).normal(size=source.x_NF.shape).astype(np.float32)  # type: ignore[union-attr]
    noisy = replace(data, inputs={**data.inputs, "fmri": replace(source, x_NF=noise)})  # type: ignore[arg-type]
    fusion = LateFusion((Ridge(), Ridge()), CONFIG, ("smri", "fmri"), "years")
    assert fusion.fit([noisy])[0].weight > 0.9
    assert fusion.fit([data])[0].weight < 0.9


def test_a_fusion_that_nobody_could_teach_weighs_both_the_same(data: TrainingData) -> None:
    never = np.zeros(len(data.scans), dtype=bool)
    halves = np.arange(len(never)) % 2 == 0
    apart = replace(
        data,
        inputs={
            "smri": replace(data.inputs["smri"], present=halves),
            "fmri": replace(data.inputs["fmri"], present=~halves),
        },
    )
    assert not (apart.inputs["smri"].present & apart.inputs["fmri"].present & ~never).any()
    assert LateFusion((Ridge(), Ridge()), CONFIG, ("smri", "fmri"), "years").fit([apart])[0].weight == 0.5


def test_what_stands_in_a_missing_modality_changes_nothing(data: TrainingData) -> None:
    source = data.inputs["fmri"]
    spoiled = source.x_NF.copy()  # type: ignore[union-attr]
    spoiled[~source.present] = 1e9
    other = replace(data, inputs={**data.inputs, "fmri": replace(source, x_NF=spoiled)})  # type: ignore[arg-type]
    splits = people_folds(data, 3)
    for pipeline in baselines(data, CONFIG):
        np.testing.assert_array_equal(
            predict_held_out(pipeline, data, splits),
            predict_held_out(pipeline, other, splits),
            err_msg=pipeline.name,
        )


def test_volumes_enter_as_block_means(tmp_path: Path) -> None:
    config = load_config(
        settings=["smri.tables=['vbm']", "smri.encoder='sfcn'", "smri.hidden=[4, 8]", "fmri.use=false"]
    )
    images = load_training_data(Store.open(planted_store(tmp_path, 60, volumes=True)), config)
    predicted = predict_held_out(
        Regression(Ridge(), config, ("smri",), "years"), images, people_folds(images, 3)
    )[0]
    assert mae(predicted, images) < 5


# Years of MAE over the 701 people with both modalities; what a careful analysis in scikit-learn was known
# to reach there. Ours may be better, never worse by more than a twentieth of a year.
KNOWN = {
    "kfold": {
        "ridge, smri": 2.95,
        "ridge, fmri": 3.73,
        "SVR, smri": 2.60,
        "late fusion, smri SVR + fmri ridge": 2.57,
        "late fusion, smri ridge + fmri ridge, log age": 2.41,
    },
    "sites": {
        "late fusion, smri SVR + fmri ridge": 3.03,
        "late fusion, smri ridge + fmri ridge, log age": 2.70,
    },
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["kfold", "sites"])
def test_simple_predictors_reach_on_real_people_what_they_are_known_to(
    protocol: str, real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "abide1"
    cohort = open_cohort(
        folder / "participants.csv",
        reading=Reading(columns=ColumnMap(id="file_id")),
        add=[
            parse_added(f"smri={folder}/smri_freesurfer6.csv.gz"),
            parse_added(f"fmri={folder}/fmri_fc_ho111_fisherz.npz"),
        ],
    )
    config = load_config()
    people = load_training_data(Store.open(convert(cohort, tmp_path / "abide1.zarr").store_path), config)
    both = np.array([has == "smri+fmri" for has in people.availability])
    assert both.sum() == 701
    splits = plain_folds(people, 5, 0, both) if protocol == "kfold" else leave_one_site_out(people)
    fits = {
        "ridge, smri": Regression(Ridge(), config, ("smri",), "years"),
        "ridge, fmri": Regression(Ridge(), config, ("fmri",), "years"),
        "SVR, smri": Regression(SupportVectors(), config, ("smri",), "years"),
        "late fusion, smri SVR + fmri ridge": LateFusion(
            (SupportVectors(), Ridge()), config, ("smri", "fmri"), "years"
        ),
        "late fusion, smri ridge + fmri ridge, log age": LateFusion(
            (Ridge(), Ridge()), config, ("smri", "fmri"), "log"
        ),
    }
    for name, known in KNOWN[protocol].items():
        assert fits[name].name == name
        predicted = np.where(both, predict_held_out(fits[name], people, splits)[0], np.nan)
        assert mae(predicted, people) < known + 0.05, name


def test_machines_that_take_all_pairs_of_scans_are_left_out_of_large_cohorts(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_brainage.evaluation.baselines.MOST_FOR_MACHINES", 10)
    for some in (data, data.only(["smri"])):
        names = [pipeline.name for pipeline in baselines(some, CONFIG)]
        assert not any("SVR" in name for name in names)
        assert any(name.startswith("ridge") for name in names)
