"""Runs with a branch for volumes, and with embeddings that are frozen, from a store to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted_store

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import BrainAgeError
from hpc_brainage.evaluation.evidence import complete
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.model.member import Member
from hpc_brainage.model.networks import LastLayer
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import load_training_data
from hpc_brainage.training.preparation import new_member
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import FinishedRun, run_training

QUICK = (
    "fmri.use=false", "model.shared=4", "model.distinct=4", "training.folds=2", "training.epochs=1",
    "training.batch_size=8", "training.device=cpu",
)  # fmt: skip
SFCN = ("smri.tables=['vbm']", "smri.encoder=sfcn", "smri.hidden=[4,8]")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_store(tmp_path_factory.mktemp("planted"), 24, volumes=True)


def settings(*more: str) -> RunConfig:
    return load_config(None, [*QUICK, *more])


def trained(folder: Path, store: Path, config: RunConfig) -> FinishedRun:
    finished = run_training(RunFolder.prepare(folder, config, store, None).path)
    assert finished is not None
    return finished


def test_a_run_rebuilds_every_voxel_and_its_bundle_is_loaded_again(store: Path, tmp_path: Path) -> None:
    finished = trained(tmp_path / "run", store, settings(*SFCN, "smri.decoder=volume"))
    complete(finished)
    loaded = load_bundle(tmp_path / "run" / "model").members
    for before, after in zip(finished.members, loaded, strict=True):
        assert after.config.smri.decoder == "volume"
        for name, value in before.state_dict().items():
            assert torch.equal(after.state_dict()[name], value), name


def test_checkpointing_trains_the_same_model(store: Path, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", store, settings(*SFCN))
    twice = trained(tmp_path / "twice", store, settings(*SFCN, "smri.checkpointing=true"))
    others = twice.members[0].state_dict()
    for name, value in plain.members[0].state_dict().items():
        torch.testing.assert_close(others[name], value, rtol=1e-5, atol=1e-6)


def test_a_volume_s_linear_path_takes_block_means_whatever_is_rebuilt(store: Path) -> None:
    config = settings(*SFCN, "smri.decoder=volume")
    member = member_of(store, config)
    x = torch.randn(3, 12, 14, 12)
    assert member.network.linear_paths["smri"].in_features == 6 * 7 * 6
    assert torch.equal(member.network.target("smri", x), x.flatten(1))
    code = torch.randn(3, 8)
    assert member.network.decoders["smri"](code).shape == (3, 12 * 14 * 12)


def test_frozen_embeddings_are_standardised_and_coded_by_one_linear_layer(store: Path) -> None:
    member = member_of(store, settings("smri.tables=['table']", "smri.encoder=frozen"))
    encoder = member.network.encoders["smri"].eval()
    assert [type(module) for module in encoder.modules() if list(module.parameters(recurse=False))] == [
        LastLayer, LastLayer,
    ]  # fmt: skip
    assert encoder.mu.in_features == 30
    data = load_training_data(Store.open(store), member.config)
    x = data.inputs["smri"].x_NF
    here = data.inputs["smri"].present
    prepared, *_ = member.prepare_role("smri", torch.from_numpy(x), torch.from_numpy(here))
    expected = (x[here] - x[here].mean(axis=0)) / x[here].std(axis=0)
    np.testing.assert_allclose(prepared[torch.from_numpy(here)].numpy(), expected, atol=1e-4)


def test_a_run_on_frozen_embeddings_finishes(store: Path, tmp_path: Path) -> None:
    finished = trained(tmp_path / "run", store, settings("smri.tables=['table']", "smri.encoder=frozen"))
    assert np.isfinite(finished.held_out["brain_age"]).sum() == finished.data.inputs["smri"].present.sum()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("smri.tables=['vbm']", "smri.encoder=frozen"), "needs a convolutional encoder"),
        (("smri.tables=['table']", "smri.encoder=resnet18_3d"), "mlp, or frozen"),
    ],
)
def test_an_encoder_that_does_not_fit_its_input_is_refused(
    more: tuple[str, ...], message: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(BrainAgeError, match=message):
        trained(tmp_path / "run", store, settings(*more))


def member_of(store: Path, config: RunConfig) -> Member:
    data = load_training_data(Store.open(store), config)
    return new_member(data, np.arange(len(data.scans)), config)
