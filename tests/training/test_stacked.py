"""Members that are trained together end as they would alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import planted_store

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import TrainingError
from hpc_brainage.losses import backends, linear_mse_members, multi_mse_compiled
from hpc_brainage.model.member import Member
from hpc_brainage.store.reader import Store
from hpc_brainage.training import stacked
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.distributed import join_processes
from hpc_brainage.training.loop import MemberTask, train_member
from hpc_brainage.training.stacked import can_be_stacked, train_stacked

QUICK = (
    "smri.components=10", "fmri.components=8", "smri.hidden=[16]", "fmri.hidden=[16, 8]", "model.shared=4",
    "model.distinct=4", "training.epochs=3", "training.batch_size=16", "training.learning_rate=5e-3",
    "training.device=cpu", "training.folds=3",
)  # fmt: skip

# Of 120 people: other numbers of them, of steps and of scans in the last step.
PARTS = (range(100), range(20, 120), range(3, 99), range(0, 120, 2), range(118))

FUSED = ["tiled"] if multi_mse_compiled.lacks() else ["tiled", "compiled"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_store(tmp_path_factory.mktemp("planted"), volumes=True)


def settings(*more: str) -> RunConfig:
    return load_config(None, [*QUICK, *more])


def tasks_of(data: TrainingData) -> list[MemberTask]:
    parts = [np.array(rows) for rows in PARTS]
    everyone = len(data.scans)
    return [MemberTask(index, rows[rows < everyone], 7 + 3 * index) for index, rows in enumerate(parts)]


def trained_together(data: TrainingData, config: RunConfig) -> tuple[list[Member], list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    tasks = tasks_of(data)
    found = train_stacked([data] * len(tasks), tasks, config, torch.device("cpu"), records.append)
    members = {place: member for place, member, _ in found}
    return [members[place] for place in range(len(tasks))], records


def quiet(record: dict[str, Any]) -> None:
    """Nobody wants to know."""


def assert_same_member(one: Member, other: Member) -> None:
    assert one.features("smri") == other.features("smri")
    theirs = other.state_dict()
    for name, value in one.state_dict().items():
        # Steps of Adam are of the size of the learning rate, however small a gradient: where rounding
        # decides its sign, a weight may differ by a few of them.
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("training.modality_training=dropout", "training.drop_fmri=0.5"),
        ("training.modality_training=none", "loss.ratio_kind=batch_sq", "training.gradient_clipping=0.1"),
        ("model.prior_shared=both", "model.dropout=0", "loss.age_scale=log", "loss.age_form=mse"),
        ("fmri.use=false", "model.linear_path=false", "model.sex=none"),
        ("training.mixup=0.5", "training.modality_training=dropout", "training.drop_fmri=0.5"),
    ],
    ids=["as they are", "hidden modalities", "clipped", "other terms", "one modality", "mixed people"],
)
def test_members_end_as_they_would_alone(store: Path, more: tuple[str, ...]) -> None:
    config = settings(*more)
    data = load_training_data(Store.open(store), config)
    processes = join_processes("cpu")
    together, records = trained_together(data, config)
    for task, member in zip(tasks_of(data), together, strict=True):
        alone: list[dict[str, Any]] = []
        assert_same_member(member, train_member(data, task, config, processes, alone.append)[0])
        own = [record for record in records if record["member"] == task.index]
        assert [record["step"] for record in own] == [record["step"] for record in alone]
        for mine, theirs in zip(own, alone, strict=True):
            assert set(theirs) <= set(mine)
            for term in set(theirs) - {"seconds", "discriminator_accuracy"}:
                assert mine[term] == pytest.approx(theirs[term], rel=1e-3, abs=1e-5), term


@pytest.mark.parametrize("form", FUSED)
def test_members_with_fused_losses_end_as_they_would_alone_without(
    store: Path, form: backends.Wish, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    fused = linear_mse_members.layer_pass
    monkeypatch.setattr(
        linear_mse_members, "layer_pass", lambda *given: passes.append(given[0]) or fused(*given)
    )
    config = settings("model.sex=concat+decoder", "loss.translation=0.7")
    data = load_training_data(Store.open(store), config)
    processes = join_processes("cpu")
    with backends.using(form):
        together, records = trained_together(data, config)
    assert set(passes) == {form}
    for task, member in zip(tasks_of(data), together, strict=True):
        with backends.using("reference"):
            alone = train_member(data, task, config, processes, quiet)[0]
        assert_same_member(member, alone)
    passes.clear()
    with backends.using("reference"):
        expected = trained_together(data, config)[1]
    assert not passes
    for mine, theirs in zip(records, expected, strict=True):
        assert mine["reconstruction"] == pytest.approx(theirs["reconstruction"], rel=1e-4)


def test_what_is_beside_a_member_does_not_matter(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings()
    data = load_training_data(Store.open(store), config)
    together, _ = trained_together(data, config)
    monkeypatch.setattr(stacked, "AT_ONCE", 1)
    one_by_one, _ = trained_together(data, config)
    for one, other in zip(together, one_by_one, strict=True):
        assert_same_member(one, other)


def test_what_was_trained_before_an_interruption_is_not_trained_again(store: Path) -> None:
    config = settings("training.epochs=1")
    data = load_training_data(Store.open(store), config)
    tasks = tasks_of(data)
    everything = [data] * len(tasks)
    cpu = torch.device("cpu")
    whole = {place: member for place, member, _ in train_stacked(everything, tasks, config, cpu, quiet)}
    rest = {
        place: member
        for place, member, _ in train_stacked(everything, tasks, config, cpu, quiet, done=[0, 3])
    }
    assert set(rest) == set(whole) - {0, 3}
    for place, member in rest.items():
        for name, value in member.state_dict().items():
            assert torch.equal(value, whole[place].state_dict()[name])


def test_a_member_whose_loss_is_no_number_is_named(store: Path) -> None:
    config = settings("training.learning_rate=1e30", "training.epochs=2")
    data = load_training_data(Store.open(store), config)
    with pytest.raises(TrainingError, match=r"the loss is|ages are not finite"):
        trained_together(data, config)


def test_volumes_validation_and_several_processes_are_left_to_the_engine(store: Path) -> None:
    alone = join_processes("cpu")
    tables = load_training_data(Store.open(store), settings())
    assert can_be_stacked(tables, settings(), alone, 3)
    assert not can_be_stacked(tables, settings(), replace(alone, world_size=2), 3)
    assert not can_be_stacked(tables, settings("training.validation=0.2"), alone, 3)
    assert not can_be_stacked(tables, settings("training.zero_stage=1"), alone, 3)
    assert not can_be_stacked(tables, settings(), alone, 10**7), "the memory has an end"
    volumes = settings('smri.tables=["vbm"]', "smri.encoder=sfcn", "smri.hidden=[4, 4]")
    assert not can_be_stacked(load_training_data(Store.open(store), volumes), volumes, alone, 3)
