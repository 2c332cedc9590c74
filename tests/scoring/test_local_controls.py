"""Controls of a site calibration are nobody of the study, whatever they are called there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_site_calibration import local, scored

from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.scoring.local_controls import check_controls, usable_controls
from hpc_brainage.scoring.same_scans import same_scans
from hpc_brainage.scoring.saved import SavedScores

OF_BOTH = ("brain_age_smri_only", "recon_z_smri", "mahalanobis")
OF_FUNCTION = ("brain_age_fmri_only", "recon_z_fmri")


def of_scans(sites: dict[str, int], seed: int, first: int, *, both: bool = True) -> pd.DataFrame:
    """Scored people with all that the model says of their scans."""
    table = scored({site: (n, 0.0, 1.0) for site, n in sites.items()}, seed=seed, first=first)
    draw, n = np.random.default_rng(1000 + seed), len(table)
    table = table.assign(
        brain_age_smri_only=table["brain_age"] + draw.normal(0, 2, n), recon_z_smri=draw.normal(0, 1, n),
        mahalanobis=draw.normal(1, 0.1, n), brain_age_fmri_only=np.nan, recon_z_fmri=np.nan,
    )  # fmt: skip
    if both:
        function = {name: draw.normal(0, 3, n) for name in OF_FUNCTION}
        table = table.assign(has_fmri=True, **function)
    return table


def controls_and_study(again: dict[str, object], *, both: bool = True) -> tuple[SavedScores, pd.DataFrame]:
    """Forty controls, and a study of eighty others and of three of them, changed as said."""
    controls = of_scans({"A": 40}, 1, 100_000, both=both)
    back = controls.iloc[[4, 17, 33]].assign(participant_id=["x", "=y", "z"])
    back = back.assign(**{name: to(back) if callable(to) else to for name, to in again.items()})
    study = pd.concat([of_scans({"A": 60, "B": 20}, 2, 0, both=both), back], ignore_index=True)
    return SavedScores("controls", controls, {}), study


def computed_anew(table: pd.DataFrame) -> dict[str, object]:
    draw = np.random.default_rng(0)
    names = [*OF_FUNCTION, *OF_BOTH]
    return {name: table[name] + draw.uniform(-5e-5, 5e-5, len(table)) for name in names}


@pytest.mark.parametrize(
    "again",
    [
        {},
        {"age": lambda t: t["age"] + 0.02},
        {"age": lambda t: np.floor(t["age"])},
        {"age": lambda t: t["age"].round() + 0.4, "site": "another name"},
        {"sex": "U", "brain_age_smri_only": 41.0, "brain_age_fmri_only": 43.0},
        {"has_fmri": False, "brain_age_fmri_only": np.nan, "recon_z_fmri": np.nan, "mahalanobis": 1.4},
        {"brain_age_fmri_only": 50.0, "recon_z_fmri": 2.5, "mahalanobis": 1.4},
    ],
    ids=["as it was", "age", "whole years", "age and site", "sex lost", "fMRI lost", "fMRI made anew"],
)
@pytest.mark.parametrize("both", [True, False])
def test_a_control_that_comes_back_under_another_name_is_refused(
    again: dict[str, object], both: bool
) -> None:
    controls, study = controls_and_study(again, both=both)
    last = study.index[-3:]
    for name, values in computed_anew(study.loc[last]).items():
        study.loc[last, name] = values
    with pytest.raises(
        UsageError, match="3 of the local controls are also scored, under another n"
    ) as told:
        usable_controls(controls, study)
    assert "p100004 is x, p100017 is =y, p100033 is z" in str(told.value)


@pytest.mark.parametrize(
    "other",
    [
        {"status": "failed"},
        dict.fromkeys((*OF_FUNCTION, "brain_age_smri_only", "recon_z_smri"), 1.5),
    ],
    ids=["not scored", "one number alone"],
)
def test_other_people_are_no_controls_under_another_name(other: dict[str, object]) -> None:
    controls, study = controls_and_study(other)
    kept, notes = usable_controls(controls, study)
    assert len(kept) == 40
    assert notes == []


@pytest.mark.parametrize(
    "again",
    [
        {"age": lambda t: t["age"] + 1.5},
        {"age": lambda t: t["age"] * 12},
        {"sex": "M", "brain_age_smri_only": 41.0, "brain_age_fmri_only": 43.0},
    ],
    ids=["ages shifted", "months for years", "sex coded the other way round"],
)
@pytest.mark.parametrize("both", [True, False])
def test_a_control_is_known_again_though_its_age_or_sex_is_another(
    again: dict[str, object], both: bool
) -> None:
    controls, study = controls_and_study(again, both=both)
    with pytest.raises(UsageError, match="3 of the local controls are also scored") as told:
        usable_controls(controls, study)
    assert "the ages or sexes of 3 differ" in str(told.value)


def test_what_may_be_chance_is_a_warning_that_says_how_much_would_be() -> None:
    controls, study = controls_and_study({})
    few = [*OF_FUNCTION, *OF_BOTH]
    alone = SavedScores("controls", controls.table.drop(columns=few).round({"brain_age": 1}), {})
    _, notes = usable_controls(alone, study.drop(columns=few).round({"brain_age": 1}))
    assert "of the local controls may also be scored, under another name" in notes[0]
    assert "would by chance" in notes[0]


def test_tables_that_tell_nobody_apart_are_said_to() -> None:
    controls, study = controls_and_study({}, both=False)
    whole = dict.fromkeys(OF_BOTH, 0)
    alike = SavedScores("controls", controls.table.round(whole), {})
    _, notes = usable_controls(alike, study.round(whole))
    assert "cannot be told" in notes[0]


def test_a_large_study_has_no_control_under_another_name_by_chance() -> None:
    """Four thousand scans, a thousand controls: several pairs agree in one number, none in enough."""
    controls = of_scans({"A": 1000}, 3, 100_000, both=False)
    study = of_scans({"A": 4000}, 4, 0, both=False)
    pairs = same_scans(controls, study)
    assert len(pairs.first) > 5
    assert pairs.contradicted.all()
    assert pairs.by_chance.min() > 0.01
    _, notes = usable_controls(SavedScores("controls", controls, {}), study)
    assert notes == []


def test_no_few_scans_are_taken_for_one_of_many_controls() -> None:
    """In a few pairs hardly any two agree in a certain number, but some in one of five."""
    everybody, draw, alike = of_scans({"A": 820}, 7, 0), np.random.default_rng(0), 0
    for _ in range(200):
        order = draw.permutation(len(everybody))
        pairs = same_scans(everybody.iloc[order[3:]], everybody.iloc[order[:3]])
        alike += len(pairs.first)
        assert not pairs.sure.any()
        assert pairs.contradicted.all()
    assert alike > 5


@pytest.mark.parametrize("steps", [{"recon_z_smri": 2}, {"recon_z_smri": 3, "brain_age_smri_only": 3}])
def test_how_many_agree_by_chance_is_foretold(steps: dict[str, int]) -> None:
    """Rounded numbers agree often; as many pairs agree in one or another as was said of the likeliest."""
    controls, study = (
        of_scans({"A": n}, seed, first, both=False).round(steps)
        for n, seed, first in ((1000, 5, 100_000), (2000, 6, 0))
    )
    a, b = (table[list(OF_BOTH)].to_numpy() for table in (controls, study))
    alike = (np.abs(a[:, None] - b) < 1e-4).any(axis=2)
    near = np.abs(controls["age"].to_numpy()[:, None] - study["age"].to_numpy()) <= 1
    assert same_scans(controls, study).by_chance.max() == pytest.approx((near & alike).sum(), rel=0.2)


def test_of_controls_that_cannot_be_used_it_is_said_why_and_what_to_do() -> None:
    controls, study = controls_and_study({})
    controls = SavedScores("controls", controls.table.assign(age=np.nan), {})
    with pytest.raises(ScoringError, match="none of the local controls") as told:
        usable_controls(controls, study)
    assert "controls: 40 of 40 local controls are not used" in str(told.value.where)
    assert "of known age" in str(told.value.expected)
    assert str(told.value.hint).startswith("score controls of the same sites")


def test_who_is_scored_is_no_control() -> None:
    people = scored({"A": (30, 0.0, 1.0)})
    same = SavedScores("controls", scored({"A": (40, 0.0, 1.0)}, first=29), {})
    with pytest.raises(UsageError, match="1 of the local controls are also to be scored"):
        check_controls(same, people, model_sha256="m", store_sha256="s")
    with pytest.raises(UsageError):
        check_controls(same, people, model_sha256="m", store_sha256="another")
    elsewhere = SavedScores("controls", same.table.assign(site="B"), {})
    check_controls(elsewhere, people, model_sha256="m", store_sha256="another")
    with pytest.raises(UsageError):
        check_controls(elsewhere, people, model_sha256="m", store_sha256="s")
    with pytest.raises(ScoringError, match="another model"):
        check_controls(local({"A": (30, 0.0, 1.0)}), people, model_sha256="x", store_sha256="s")
