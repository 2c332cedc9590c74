"""A bundle gives back the very same model, or a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import ModelError
from hpc_brainage.model.age_scale import AgeScale
from hpc_brainage.model.bundle import (
    FORMAT_VERSION,
    INFO,
    WEIGHTS,
    ModelInfo,
    TrainingPeople,
    load_bundle,
    occasion_mark,
    person_mark,
    save_bundle,
    scan_mark,
)
from hpc_brainage.model.front_end import fit_front_end
from hpc_brainage.model.member import Member, VolumeScaler

NAMES = tuple(f"region {i}" for i in range(9))


def member(seed: int) -> Member:
    torch.manual_seed(seed)
    x = np.random.default_rng(seed).normal(size=(40, 9))
    front_end = fit_front_end(x, NAMES, components=4, clip_sd=5.0, max_missing=0.2)
    scale = AgeScale.fit(torch.linspace(10, 80, 40), "log")
    return Member({"smri": front_end}, scale, RunConfig()).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    members = [member(0), member(1)]
    people = TrainingPeople(
        people=40, scans=40, age_min=10, age_max=80, age_mean=45, age_sd=20, sexes={"F": 40},
        sites={"a": 40}, with_modality={"smri": 40}, where=None, store="s", store_sha256="0" * 64,
    )  # fmt: skip
    info = ModelInfo(
        name="m", config=RunConfig(), members=tuple(m.describe() for m in members),
        tables={"smri": ("t",)}, features={"smri": NAMES}, units={"smri": ("mm",) * 9},
        volumes={}, training=people, salt="salt", software={},
        seen={
            person_mark("01", "salt"): 1, occasion_mark("01", "F", 30.0, "salt"): 1,
            scan_mark("abc", "salt"): 0,
        },
    )  # fmt: skip
    save_bundle(tmp_path / "model", info, members)
    return tmp_path / "model"


def test_a_loaded_bundle_predicts_bit_for_bit_what_was_saved(saved: Path) -> None:
    bundle = load_bundle(saved)
    x = {"smri": torch.randn(5, 9)}
    present, sex = {"smri": torch.ones(5, dtype=torch.bool)}, torch.tensor([0, 1, -1, 0, 1])
    for index, loaded in enumerate(bundle.members):
        expected = member(index).predict(x, present, sex)
        found = loaded.predict(x, present, sex)
        assert torch.equal(expected.age, found.age)
        assert torch.equal(expected.age_by_role["smri"], found.age_by_role["smri"])


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    bundle = load_bundle(saved)
    save_bundle(tmp_path / "again", bundle.info, bundle.members)
    for name in (INFO, WEIGHTS, "MODEL_CARD.md"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_a_bundle_knows_whom_it_has_seen_without_naming_them(saved: Path) -> None:
    scans = pd.DataFrame(
        {
            "participant_id": ["01", "02", "01", "01", "77", "78"],
            "sex": ["F", "F", "M", "F", "F", "F"],
            "age": [30.0, 30.0, 30.0, 33.5, 50.0, 50.0],
        }
    )
    checksums = [[""], [""], [""], [""], ["", "abc"], ["abd"]]
    known = load_bundle(saved).known_people(scans, checksums)
    assert known.fold.tolist() == [1, -1, 1, 1, 0, -1]
    assert known.certain.tolist() == [True, False, False, False, True, False]
    assert '"01"' not in (saved / INFO).read_text()


def test_a_bundle_of_the_first_format_is_read(saved: Path) -> None:
    record = json.loads((saved / INFO).read_text())
    assert record["format_version"] == FORMAT_VERSION
    del record["calibration"], record["training"]["field_strengths"]
    (saved / INFO).write_text(json.dumps(record | {"format_version": 1}))
    old = load_bundle(saved)
    assert old.info.format_version == 1
    assert old.info.calibration is None
    assert old.training_range is None
    assert old.info.training.field_strengths == {}


def test_a_flipped_byte_in_the_weights_is_refused(saved: Path) -> None:
    content = bytearray((saved / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (saved / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="not those that the description speaks of"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "newer"),
        ({"format": "something else"}, "not a model bundle"),
        ({"members": 3}, "damaged at members"),
        ({"unknown": 1}, "damaged at unknown"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(saved: Path, change: dict, message: str) -> None:
    record = json.loads((saved / INFO).read_text()) | change
    (saved / INFO).write_text(json.dumps(record))
    with pytest.raises(ModelError, match=message):
        load_bundle(saved)


def test_an_older_version_s_setting_that_is_gone_is_named_and_is_no_damage(saved: Path) -> None:
    record = json.loads((saved / INFO).read_text()) | {"format_version": 1}
    record["config"]["training"]["bf16"] = True
    (saved / INFO).write_text(json.dumps(record))
    with pytest.raises(
        ModelError, match=r"older version .*gone: training\.bf16[\s\S]*train the model again"
    ):
        load_bundle(saved)
    (saved / INFO).write_text(json.dumps(record | {"format_version": FORMAT_VERSION}))
    with pytest.raises(ModelError, match=r"damaged at config\.training\.bf16"):
        load_bundle(saved)
    del record["config"]["training"]["bf16"]
    (saved / INFO).write_text(json.dumps(record | {"members": 3}))
    with pytest.raises(ModelError, match=r"older version .*or damaged, at members"):
        load_bundle(saved)


def test_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model bundle"):
        load_bundle(tmp_path)


def test_an_unknown_sex_is_scored_as_the_mean_of_both(saved: Path) -> None:
    model = load_bundle(saved).members[0]
    x, present = {"smri": torch.randn(1, 9)}, {"smri": torch.ones(1, dtype=torch.bool)}
    ages = [float(model.predict(x, present, torch.tensor([sex])).age) for sex in (0, 1, -1)]
    assert ages[0] != ages[1]
    assert ages[2] == pytest.approx((ages[0] + ages[1]) / 2)
    assert float(model.predict(x, present, torch.tensor([0])).age_other_sex) == pytest.approx(ages[1])


def test_a_scan_with_too_few_features_counts_as_lacking_them(saved: Path) -> None:
    model = load_bundle(saved).members[0]
    x = torch.randn(2, 9)
    x[0, :3], x[1, :6] = torch.nan, torch.nan
    found = model.predict({"smri": x}, {"smri": torch.ones(2, dtype=torch.bool)}, torch.tensor([0, 0]))
    assert torch.isfinite(found.age[0])
    assert torch.isnan(found.age[1])
    assert found.imputed["smri"].tolist() == [3, 0]


def test_a_volume_member_survives_the_round_trip() -> None:
    config = RunConfig.model_validate({"smri": {"encoder": "sfcn", "hidden": [4, 8]}})
    made = Member({"smri": VolumeScaler((8, 9, 8))}, AgeScale("years", 40.0, 10.0), config).eval()
    again = Member.from_record(made.describe(), config)
    again.load_state_dict(made.state_dict())
    x, present = {"smri": torch.randn(2, 8, 9, 8)}, {"smri": torch.ones(2, dtype=torch.bool)}
    sex = torch.tensor([0, 1])
    assert torch.equal(made.predict(x, present, sex).age, again.eval().predict(x, present, sex).age)


def test_a_stretched_age_stands_so_much_farther_from_the_mean_and_so_does_its_spread() -> None:
    """A factor for each set of modalities, in float64."""
    x = np.random.default_rng(0).normal(size=(40, 9))
    front_ends = {
        role: fit_front_end(x, NAMES, components=4, clip_sd=5.0, max_missing=0.2)
        for role in ("smri", "fmri")
    }
    scale = AgeScale.fit(torch.linspace(10, 80, 40), "years")
    present = {
        "smri": torch.tensor([True, True, False, False]), "fmri": torch.tensor([True, False, True, False])
    }  # fmt: skip
    factors = {"stretch_both": 1.5, "stretch_smri": 0.5, "stretch_fmri": 2.0}
    found = []
    for settings in ({}, factors):
        torch.manual_seed(0)
        config = RunConfig.model_validate({"model": settings, "loss": {"age_form": "nll"}})
        own = Member(front_ends, scale, config).eval()
        scans = {role: torch.from_numpy(x[:4].astype(np.float32)) for role in present}
        found.append(own.predict(scans, present, torch.tensor([0, 1, 0, 1])))
    plain, stretched = found
    factor = np.array([1.5, 0.5, 2.0])
    np.testing.assert_allclose(
        stretched.age[:3].numpy() - scale.center, factor * (plain.age[:3].numpy() - scale.center), rtol=1e-6
    )
    np.testing.assert_allclose(stretched.sd[:3].numpy(), factor * plain.sd[:3].numpy(), rtol=1e-6)
    assert torch.isnan(stretched.age[3])
    both = stretched.age_by_role["smri"][0] - scale.center, plain.age_by_role["smri"][0] - scale.center
    assert float(both[0]) == pytest.approx(0.5 * float(both[1]), rel=1e-6)
