"""A whole training run on a planted cohort: it learns, repeats, resumes, and says what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_cohort, planted_store
from processes import launch

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import BrainAgeError, TrainingError, UsageError
from hpc_brainage.evaluation.evidence import complete
from hpc_brainage.losses.gradient_memory import SMALLEST, gradient_like, kept_bytes
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.store.reader import Store
from hpc_brainage.training import stacked
from hpc_brainage.training.data import load_training_data
from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.prediction import predict_rows
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import FinishedRun, run_training

QUICK = (
    "smri.components=10", "fmri.components=8", "smri.hidden=[16]", "fmri.hidden=[16]", "model.shared=4",
    "model.distinct=4", "training.folds=3", "training.epochs=25", "training.batch_size=16",
    "training.weight_decay=0.1", "training.learning_rate=5e-3", "training.device=cpu",
)  # fmt: skip


def quick(*settings: str) -> RunConfig:
    return load_config(None, [*QUICK, *settings])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_store(tmp_path_factory.mktemp("planted"), volumes=True)


def train(folder: Path, store: Path, config: RunConfig, where: str | None = None) -> FinishedRun:
    finished = run_training(RunFolder.prepare(folder, config, store, where).path)
    assert finished is not None
    return finished


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return train(tmp_path_factory.mktemp("runs") / "base", store, quick())


def test_the_model_beats_the_mean_and_the_evidence_says_so(finished: FinishedRun) -> None:
    bundle = complete(finished)
    evidence = bundle.info.evidence
    assert evidence is not None
    assert evidence.everyone.model.n == evidence.everyone.mean_predictor.n == 120
    assert evidence.everyone.model.mae < 0.5 * evidence.everyone.mean_predictor.mae
    assert evidence.everyone.ridge.mae < 0.5 * evidence.everyone.mean_predictor.mae
    difference = evidence.minus_constant
    assert difference is not None
    assert difference.value == pytest.approx(evidence.everyone.model.mae - evidence.everyone.constant.mae)
    assert difference.is_below_zero
    assert evidence.minus_ridge is not None
    assert evidence.doubt is None
    assert set(evidence.by_available) == {"smri+fmri", "smri", "fmri"}
    card = (finished.folder.model / "MODEL_CARD.md").read_text()
    assert "not a diagnostic device" in card.lower()
    assert "The model errs less than a constant age (difference in MAE −" in card
    assert "A ridge regression on the same inputs (" in card
    assert (finished.folder.path.parent / "latest").resolve() == finished.folder.path.resolve()
    assert finished.folder.is_finished


def test_no_memory_of_gradients_outlives_the_training(store: Path, tmp_path: Path) -> None:
    one = gradient_like(torch.empty(SMALLEST))
    assert kept_bytes() >= one.numel()
    train(tmp_path / "run", store, quick("training.epochs=1"))
    assert kept_bytes() == 0


def test_every_person_is_held_out_once_by_a_member_that_never_saw_them(finished: FinishedRun) -> None:
    held_out = pd.read_csv(finished.folder.held_out, sep="\t", dtype={"participant_id": str})
    assert held_out["brain_age"].notna().all()
    assert held_out["participant_id"].tolist() == finished.data.scans["participant_id"].tolist()
    nothing: list[list[str]] = [[] for _ in range(len(held_out))]
    known = complete(finished).known_people(held_out, nothing)
    assert np.array_equal(known.fold, held_out["fold"])
    assert known.certain.all()


def test_the_same_run_gives_the_same_bytes(finished: FinishedRun, store: Path, tmp_path: Path) -> None:
    again = train(tmp_path / "base", store, quick())
    for made in (again, finished):
        complete(made)
    for name in ("model.safetensors", "model.json", "MODEL_CARD.md"):
        assert (again.folder.model / name).read_bytes() == (finished.folder.model / name).read_bytes()
    pd.testing.assert_frame_equal(again.held_out, finished.held_out, check_exact=True)


@pytest.mark.parametrize("more", [(), ("training.zero_stage=1",)], ids=["stacked", "by the engine"])
def test_a_run_that_was_cut_off_goes_on_with_the_next_member(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(stacked, "AT_ONCE", 1)
    config = quick("training.epochs=8", *more)
    undisturbed = train(tmp_path / "undisturbed", store, config)
    run = RunFolder.prepare(tmp_path / "base", config, store, None)

    class CutOffError(Exception):
        pass

    def cut(record: dict, done: int, total: int) -> None:
        assert (done, total) == (record["member"] * 8 + record["epoch"] + 1, 24)
        if record["member"] == 1:
            raise CutOffError

    with pytest.raises(CutOffError):
        run_training(run.path, on_epoch=cut)
    trained: set[int] = set()
    again = run_training(run.path, on_epoch=lambda record, done, total: trained.add(record["member"]))
    assert again is not None
    assert trained == {1, 2}
    assert len(again.folder.metrics.read_text().splitlines()) == 3 * 8
    pd.testing.assert_frame_equal(again.held_out, undisturbed.held_out, check_exact=True)


def test_an_ensemble_has_members_for_each_fold_and_predicts_their_mean(store: Path, tmp_path: Path) -> None:
    config = quick("training.ensemble=3", "training.epochs=8")
    found = train(tmp_path / "ensemble", store, config)
    assert len(found.members) == 9
    bundle = complete(found)
    assert bundle.folds == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    rows = np.flatnonzero(found.fold == 1)
    own = [predict_rows(member, found.data, rows)["age"] for member in found.members[3:6]]
    assert not np.allclose(own[0], own[1])
    np.testing.assert_allclose(found.held_out["brain_age"].to_numpy()[rows], np.mean(own, axis=0))


def test_metrics_hold_a_line_for_each_epoch_with_every_term(finished: FinishedRun) -> None:
    lines = [json.loads(line) for line in finished.folder.metrics.read_text().splitlines()]
    assert len(lines) == 3 * 25
    terms = {"age", "reconstruction", "cross", "kl", "ratio", "adversarial", "discriminator"}
    assert terms <= set(lines[0])
    assert lines[24]["age"] < 0.7 * lines[0]["age"]


def test_early_stopping_keeps_the_best_epoch(store: Path, tmp_path: Path) -> None:
    config = quick(
        "training.validation=0.2", "training.patience=3", "training.epochs=60", "training.folds=2"
    )
    run = train(tmp_path / "early", store, config)
    lines = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    for index in range(2):
        errors = [line["validation_mae"] for line in lines if line["member"] == index]
        summary = json.loads((run.folder.checkpoints / f"member-{index}.json").read_text())["summary"]
        assert summary["best_epoch"] == int(np.argmin(errors))
        assert len(errors) < 60
        assert len(errors) - 1 - summary["best_epoch"] == 3


@pytest.mark.parametrize("role", ["smri", "fmri"])
def test_a_store_can_be_trained_on_with_one_modality(role: str, store: Path, tmp_path: Path) -> None:
    other = "fmri" if role == "smri" else "smri"
    run = train(tmp_path / role, store, quick(f"{other}.use=false", "training.folds=2"))
    assert run.members[0].roles == (role,)
    evidence = complete(run).info.evidence
    assert evidence is not None
    assert evidence.everyone.model.mae < 0.7 * evidence.everyone.mean_predictor.mae


def test_modality_dropout_trains_too(store: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "drop", store, quick("training.modality_training=dropout", "training.folds=2"))
    age = run.data.age
    both = run.held_out["brain_age_smri_only"].notna() & run.held_out["brain_age_fmri_only"].notna()
    for column in ("brain_age", "brain_age_smri_only", "brain_age_fmri_only"):
        assert np.abs(run.held_out[column] - age)[both].mean() < 12


def test_people_with_the_very_same_data_are_pointed_out(tmp_path: Path) -> None:
    cohort = planted_cohort(30, name="twins")
    source = cohort.sources["smri/table"]
    copied = replace(source, load=lambda row: source.load(5 if row == 9 else row))
    sources = {**cohort.sources, "smri/table": copied}
    store = convert(replace(cohort, sources=sources), tmp_path / "twins.zarr").store_path
    data = load_training_data(Store.open(store), quick())
    assert any("several participants" in note for note in data.notes)


def test_volumes_are_streamed_from_the_store(store: Path, tmp_path: Path) -> None:
    config = quick(
        "smri.tables=['vbm']", "smri.encoder=sfcn", "smri.hidden=[4,8]", "fmri.use=false",
        "training.folds=2", "training.epochs=12", "training.learning_rate=1e-2",
    )  # fmt: skip
    run = train(tmp_path / "volumes", store, config)
    evidence = complete(run).info.evidence
    assert evidence is not None
    assert evidence.everyone.model.n == 120
    assert evidence.everyone.model.mae < 0.7 * evidence.everyone.mean_predictor.mae


def test_permuted_ages_give_the_mean_predictor_s_error(store: Path, tmp_path: Path) -> None:
    from hpc_brainage.training import run as run_room

    def permuted(*arguments: object) -> object:
        data = load(*arguments)  # type: ignore[arg-type]
        shuffled = np.random.default_rng(0).permutation(data.scans["age"].to_numpy())
        data.scans["age"] = shuffled
        return data

    load = run_room.load_training_data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_room, "load_training_data", permuted)
        evidence = complete(
            train(tmp_path / "permuted", store, quick("training.weight_decay=1"))
        ).info.evidence
    assert evidence is not None
    assert evidence.everyone.model.mae > 0.9 * evidence.everyone.mean_predictor.mae
    assert evidence.doubt is not None


def test_only_the_selected_people_are_trained_on(store: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "controls", store, quick("training.folds=2"), "diagnosis == 'control'")
    assert set(run.data.scans["diagnosis"]) == {"control"}
    assert run.info.training.where == "diagnosis == 'control'"
    assert "left out by --where" in run.data.notes[0]


def test_all_predictors_are_measured_on_the_same_people(tmp_path: Path) -> None:
    cohort = planted_cohort(100, name="holes")
    source = cohort.sources["smri/table"]
    holes = replace(
        source,
        load=lambda row: np.where(np.arange(30) < (20 if row % 5 == 3 else 0), np.nan, source.load(row)),
    )
    store = convert(replace(cohort, sources={"smri/table": holes}), tmp_path / "holes.zarr").store_path
    run = train(tmp_path / "run", store, quick("training.folds=2", "smri.max_missing=0.5"))
    evidence = complete(run).info.evidence
    assert evidence is not None
    everyone = evidence.everyone
    assert evidence.not_predicted == 20
    assert everyone.model.n == everyone.ridge.n == everyone.mean_predictor.n == len(run.data.scans) - 20


def test_a_store_that_has_changed_is_noticed(tmp_path: Path) -> None:
    store = planted_store(tmp_path, 40)
    config = quick("training.folds=2", "training.epochs=1")
    complete(train(tmp_path / "run", store, config))
    convert(planted_cohort(40, seed=1), store, overwrite=True)
    with pytest.raises(TrainingError, match="another store"):
        RunFolder.prepare(tmp_path / "run", config, store, None)
    with pytest.raises(TrainingError, match="has changed since"):
        run_training(tmp_path / "run")


def test_a_cohort_of_one_age_is_refused(tmp_path: Path) -> None:
    cohort = planted_cohort(30, name="same")
    cohort.scans["age"] = 30.0
    store = convert(cohort, tmp_path / "same.zarr").store_path
    with pytest.raises(TrainingError, match="everybody is 30 years old"):
        train(tmp_path / "run", store, quick())


def test_a_run_that_diverges_ends_in_an_error(store: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"diverged|the loss is"):
        train(tmp_path / "run", store, quick("training.learning_rate=1e9", "training.epochs=2"))


def test_what_may_not_have_been_meant_is_said(tmp_path: Path) -> None:
    cohort = planted_cohort(30, name="splits")
    cohort.scans["split"] = np.where(np.arange(30) < 20, "train", "external_test")
    cohort.scans["sex"] = "M"
    store = Store.open(convert(cohort, tmp_path / "splits.zarr").store_path)
    notes = " ".join(load_training_data(store, quick()).notes)
    assert "official splits (train 20, external_test 10)" in notes
    assert "will not know the other sex" in notes
    assert "official" not in " ".join(load_training_data(store, quick(), "split == 'train'").notes)


def test_a_run_cannot_be_called_latest(store: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be called"):
        RunFolder.prepare(tmp_path / "latest", quick(), store, None)


@pytest.mark.parametrize("world", [2])
def test_several_processes_train_and_finish_a_run_together(world: int, store: Path, tmp_path: Path) -> None:
    """With a validation set, early stopping and a member that was finished before."""
    config = quick(
        "model.dropout=0.0", "training.folds=2", "training.epochs=6", "training.validation=0.2",
        "training.patience=2",
    )  # fmt: skip
    alone = complete(train(tmp_path / "alone", store, config))
    run = RunFolder.prepare(tmp_path / "together", config, store, None)
    for _ in range(2):  # the second time all members are there, and only the first process can tell
        launch(world, "-m", "hpc_brainage.cli.worker", str(run.path))
        together = load_bundle(run.model)
        assert together.info.evidence is not None
        assert alone.info.evidence is not None
        assert together.info.evidence.everyone.model.mae == pytest.approx(
            alone.info.evidence.everyone.model.mae, rel=1e-3
        )
    assert len(run.metrics.read_text().splitlines()) == len(
        (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()
    )


def test_more_processes_than_scans_in_a_step_are_refused(store: Path, tmp_path: Path) -> None:
    from hpc_brainage.training.run import _agree

    with pytest.raises(TrainingError, match="16 processes cannot share a step of 8 scans"):
        _agree(Processes(0, 16, torch.device("cpu")), "0" * 64, quick("training.batch_size=8").training)


def test_another_run_in_the_same_folder_is_refused(finished: FinishedRun, store: Path) -> None:
    with pytest.raises(TrainingError, match="other settings"):
        RunFolder.prepare(finished.folder.path, quick("training.seed=1"), store, None)


def test_a_run_that_never_finished_a_member_may_be_corrected(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not understood"):
        train(tmp_path / "typo", store, quick(), "agee > 3")
    with pytest.raises(TrainingError, match="cannot be dealt"):
        train(tmp_path / "typo", store, quick("training.folds=500"), "age > 3")
    run = train(tmp_path / "typo", store, quick("training.folds=2", "training.epochs=1"), "age > 3")
    assert run.folder.request()["where"] == "age > 3"


def test_a_folder_that_is_no_run_is_left_alone(store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(TrainingError, match="not a run"):
        RunFolder.prepare(tmp_path, quick(), store, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("smri.tables=['tabel']",), "no smri modality 'tabel'"),
        (("smri.use=false", "fmri.use=false"), "no modality that these settings train on"),
        (("smri.tables=['vbm']",), "needs a convolutional encoder"),
        (("smri.encoder=sfcn", "smri.hidden=[4,8]"), "feature tables need the encoder mlp"),
        (("training.folds=500",), "cannot be dealt"),
    ],
)
def test_settings_that_do_not_fit_the_store_are_refused(
    settings: tuple[str, ...], message: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(BrainAgeError, match=message):
        train(tmp_path / "run", store, quick(*settings))


def test_a_selection_that_matches_nobody_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="matches none"):
        train(tmp_path / "run", store, quick(), "age > 200")
