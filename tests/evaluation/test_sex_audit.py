"""What sex does to the predicted age, checked on predictions whose every answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_members import fresh_members, planted_data, quick, trained_members

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.sex_audit import SexAudit, sex_audit
from hpc_brainage.model.member import Member, Prediction
from hpc_brainage.training.data import FeatureInput, TrainingData


def say(member: Member, female: float, male: float, unknown: float) -> None:
    """Let a member say a person's own age (the first sMRI feature holds it) plus a number for each sex."""

    def predict(
        x: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor], sex: torch.Tensor
    ) -> Prediction:
        age = x["smri"][:, 0].double()
        more = torch.tensor([female, male, unknown], dtype=torch.float64)
        other = torch.where(sex < 0, torch.nan, age + more[1 - sex.clamp(min=0)])
        return Prediction(
            age + more[sex], {}, other, torch.full_like(age, torch.nan), {}, dict(present), {}
        )

    member.predict = predict  # type: ignore[method-assign]


def with_the_age_in_the_first_feature(data: TrainingData) -> TrainingData:
    smri = data.inputs["smri"]
    assert isinstance(smri, FeatureInput)
    x = smri.x_NF.copy()
    x[:, 0] = data.age
    return replace(data, inputs={**data.inputs, "smri": replace(smri, x_NF=x)})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = tmp_path_factory.mktemp("sex")
    return with_the_age_in_the_first_feature(planted_data(folder, quick(), people=90))


@pytest.fixture(scope="module")
def audit(data: TrainingData) -> SexAudit:
    members, fold = fresh_members(data, quick())
    for member in members:
        say(member, female=1.0, male=-2.5, unknown=-4.0)
    return sex_audit(members, data, fold, draws=200, shuffles=1)


def test_errors_are_those_of_each_sex(data: TrainingData, audit: SexAudit) -> None:
    error = audit.error.set_index("sex")
    for sex, gap in (("F", 1.0), ("M", -2.5)):
        own = data.scans["sex"] == sex
        assert error.loc[sex, "n"] == own.sum()
        assert error.loc[sex, "mean_age"] == pytest.approx(data.age[own].mean(), rel=1e-5)
        for name, value in (("gap", gap), ("mae", abs(gap))):
            found = error.loc[sex, [name, f"{name}_low", f"{name}_high"]].astype(float)
            np.testing.assert_allclose(found, value, atol=1e-4)
    assert audit.left_out == 0


def test_the_difference_between_the_sexes_is_m_minus_f(audit: SexAudit) -> None:
    difference = audit.difference.set_index("measure")["M_minus_F"]
    assert difference["MAE"] == pytest.approx(1.5, abs=1e-4)
    assert difference["gap"] == pytest.approx(-3.5, abs=1e-4)
    assert difference["gap at the same age"] == pytest.approx(-3.5, abs=1e-4)


def test_the_flip_is_other_minus_own(audit: SexAudit) -> None:
    flip = audit.flip.set_index(["sex", "age"])
    for sex, change in (("F", -3.5), ("M", 3.5)):
        rows = flip.loc[sex]
        np.testing.assert_allclose(rows[["mean", "q05", "q50", "q95"]], change, atol=1e-4)
        np.testing.assert_allclose(rows["mean_abs"], abs(change), atol=1e-4)
        np.testing.assert_allclose(rows["sd"].dropna(), 0, atol=1e-4)
        decades = rows.drop("all")
        assert decades["n"].sum() == rows.loc["all", "n"]
        assert decades.index.tolist() == sorted(decades.index, key=lambda name: int(name.split("-")[0]))


def test_an_unknown_sex_costs_what_it_costs(audit: SexAudit) -> None:
    unknown = audit.unknown.set_index("sex")
    np.testing.assert_allclose(
        unknown.loc["F", ["known", "unknown", "cost"]].astype(float), [1, 4, 3], atol=1e-4
    )
    np.testing.assert_allclose(
        unknown.loc["M", ["known", "unknown", "cost"]].astype(float), [2.5, 4, 1.5], atol=1e-4
    )
    share = unknown.loc["F", "n"] / unknown.loc["all", "n"]
    assert unknown.loc["all", "cost"] == pytest.approx(3 * share + 1.5 * (1 - share), abs=1e-3)


def test_a_gap_that_only_comes_with_age_is_no_gap_of_the_sex(data: TrainingData) -> None:
    """Men are made twenty years older, and gaps fall with age: at the same age nothing is left."""
    older = data.scans["age"] + np.where(data.scans["sex"] == "M", 20, 0)
    moved = with_the_age_in_the_first_feature(replace(data, scans=data.scans.assign(age=older)))
    smri = moved.inputs["smri"]
    assert isinstance(smri, FeatureInput)
    shrunk = smri.x_NF.copy()
    shrunk[:, 0] = 45 + 0.7 * (shrunk[:, 0] - 45)
    moved = replace(moved, inputs={**moved.inputs, "smri": replace(smri, x_NF=shrunk)})
    members, fold = fresh_members(moved, quick())
    for member in members:
        say(member, female=0.0, male=0.0, unknown=0.0)
    difference = sex_audit(members, moved, fold, draws=50, shuffles=1).difference.set_index("measure")
    assert difference.loc["gap", "M_minus_F"] < -3
    assert difference.loc["gap at the same age", "M_minus_F"] == pytest.approx(0, abs=1e-3)


def test_a_person_of_unknown_sex_is_counted_and_left_out(data: TrainingData) -> None:
    sex = data.scans["sex"].to_numpy(copy=True)
    sex[:4] = "U"
    some = replace(data, scans=data.scans.assign(sex=sex))
    members, fold = fresh_members(some, quick())
    fold[10] = -1
    audit = sex_audit(members, some, fold, draws=20, shuffles=1)
    assert audit.left_out == 5
    assert audit.error["n"].sum() == len(sex) - 5
    assert "5 scans are in none" in audit.markdown()


def test_a_model_that_is_not_told_the_sex_does_not_move(tmp_path: Path) -> None:
    config = quick("model.sex=none")
    data = planted_data(tmp_path, config, people=60)
    members, fold = fresh_members(data, config)
    audit = sex_audit(members, data, fold, draws=20, shuffles=1)
    assert (audit.flip["mean_abs"] == 0).all()
    assert (audit.unknown["cost"] == 0).all()


def test_trained_members_are_audited_on_people_they_never_saw() -> None:
    members, data, fold = trained_members()
    audit = sex_audit(members, data, fold, draws=200, shuffles=2)
    for row in audit.error.itertuples():
        assert row.mae_low <= row.mae <= row.mae_high
        assert row.gap_low <= row.gap <= row.gap_high
    # The planted features differ by sex, so the codes know it.
    probes = audit.decodability.set_index(["code", "score"])
    assert probes.loc[("all", "AUC"), "value"] > 0.7
    assert set(audit.decodability["target"]) == {"sex"}


def test_one_sex_cannot_be_audited(data: TrainingData) -> None:
    women = replace(data, scans=data.scans.assign(sex="F"))
    members, fold = fresh_members(women, quick())
    with pytest.raises(UsageError, match="of known sex are: F"):
        sex_audit(members, women, fold)
