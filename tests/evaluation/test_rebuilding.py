"""Rebuilding a modality from its own codes and from the other modality's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_members import fresh_members, planted_data, quick, trained_members

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.rebuilding import rebuilding


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return rebuilding(*trained_members(), strangers=10).set_index("rebuilt")


def test_a_person_s_own_codes_rebuild_best_and_a_stranger_s_worst(table: pd.DataFrame) -> None:
    assert (table["own"] < 1).all()
    assert (table["own"] <= table["cross"] + 0.02).all()
    assert (table["cross"] < table["cross_stranger"]).all()
    assert (table["translated"] < table["translated_stranger"]).all()
    np.testing.assert_allclose(table["gap"], table["cross"] - table["own"])


def test_the_latent_that_both_modalities_share_is_imputed_by_the_simple_rival(table: pd.DataFrame) -> None:
    assert (table["ridge_r2"] > 0.1).all()
    np.testing.assert_allclose(table["imputed_r2"], 1 - table["translated"])


def test_a_decoder_that_always_says_the_mean_leaves_all_of_the_variance(tmp_path: Path) -> None:
    config = quick()
    data = planted_data(tmp_path, config, people=60)
    members, fold = fresh_members(data, config)
    with torch.no_grad():
        for member in members:
            for decoder in member.network.decoders.values():
                decoder.out.weight.zero_()
                decoder.out.bias.zero_()
    found = rebuilding(members, data, fold, strangers=2)
    for way in ("own", "cross", "cross_stranger", "translated", "translated_stranger"):
        # Components have mean zero over everybody with the modality, the rows here have both.
        np.testing.assert_allclose(found[way], 1, atol=0.03)
    np.testing.assert_allclose(found["gap"], 0, atol=1e-12)


def test_a_perfect_decoder_leaves_nothing(tmp_path: Path) -> None:
    config = quick("smri.components=2", "fmri.components=2", "model.shared=2", "model.distinct=2")
    data = planted_data(tmp_path, config, people=60)
    members, fold = fresh_members(data, config)
    for member in members:
        network = member.network
        for role in network.roles:

            def encoder(x: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
                code = torch.cat([x, torch.zeros_like(x)], dim=1)
                return code, torch.zeros_like(code)

            network.encoders[role].forward = encoder  # type: ignore[method-assign]
            network.decoders[role].forward = lambda code: code[:, :2]  # type: ignore[method-assign]
    found = rebuilding(members, data, fold, strangers=2)
    np.testing.assert_allclose(found["own"], 0, atol=1e-10)
    np.testing.assert_array_equal(found["cross"], found["translated"])
    assert (found["cross"] > 0.1).all()


def test_the_sex_of_a_person_reaches_a_decoder_that_takes_it(tmp_path: Path) -> None:
    config = quick("model.sex=concat+decoder")
    data = planted_data(tmp_path, config, people=60)
    members, fold = fresh_members(data, config)
    told = rebuilding(members, data, fold, strangers=1)
    with torch.no_grad():
        for member in members:
            for decoder in member.network.decoders.values():
                first = next(decoder.parameters())
                first[: len(first) // 2, -2:] += 5
    assert not np.allclose(told["own"], rebuilding(members, data, fold, strangers=1)["own"])


def test_a_volume_is_compared_by_its_coarse_blocks(tmp_path: Path) -> None:
    volume = ('smri.tables=["vbm"]', "smri.encoder=sfcn", "smri.hidden=[4,8]", "training.folds=2")
    config = quick(*volume, "smri.decoder=volume")
    data = planted_data(tmp_path, config, people=24, volumes=True)
    members, fold = fresh_members(data, config)
    found = rebuilding(members, data, fold, strangers=1).set_index("rebuilt")
    assert np.isfinite(found.loc["smri"].to_numpy(dtype=float)).all()


def test_a_model_of_one_modality_has_nothing_to_cross(tmp_path: Path) -> None:
    config = quick("fmri.use=false")
    data = planted_data(tmp_path, config, people=40)
    members, fold = fresh_members(data, config)
    with pytest.raises(UsageError, match="two modalities"):
        rebuilding(members, data, fold)
