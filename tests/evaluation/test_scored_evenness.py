"""Whether people like the training controls are called even as often as is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scored_tables import score_table

from hpc_brainage.evaluation.scored_coverage import from_even
from hpc_brainage.evaluation.scored_evenness import Ranked, against_age, by_modalities, often_early, ranked

CONTROLS, PEOPLE, ROUNDS, LEVEL = 221, 159, 250, 0.01
MOST = LEVEL + 3 * (LEVEL * (1 - LEVEL) / ROUNDS) ** 0.5


def like_the_controls(draw: np.random.Generator) -> Ranked:
    """New people whose z are drawn as those of the controls."""
    norms, z = np.sort(draw.normal(size=CONTROLS)), draw.normal(size=PEOPLE)
    p = (1 + CONTROLS - np.searchsorted(norms, z)) / (CONTROLS + 1)
    table = score_table(PEOPLE).assign(bag_z=z, p_accelerated=p, has_fmri=np.arange(PEOPLE) < 100)
    sets = {name: {"n": CONTROLS} for name in ("smri", "smri+fmri")}
    found = ranked(table, {"model": {"calibration": {"uniformity": sets}}}, 20)
    assert found is not None
    return found


def test_false_alarms_are_about_as_often_as_is_said() -> None:
    draw = np.random.default_rng(0)
    alarms, naive = np.zeros(4), 0
    for _ in range(ROUNDS):
        people = like_the_controls(draw)
        share = people.scans["share"].to_numpy()
        sets = by_modalities(people)
        alarms += [
            from_even(share, people.controls)[1] < LEVEL,
            often_early(people)[1] < LEVEL,
            against_age(people)[1] < LEVEL,
            any(p < LEVEL / len(sets) for *_, p in sets),
        ]
        naive += from_even(share)[1] < LEVEL
    assert (alarms / ROUNDS <= MOST).all()
    assert naive / ROUNDS > MOST


def test_sets_of_controls_make_the_chance_of_one_between_them() -> None:
    scans = pd.DataFrame({"has": ["smri"] * 10 + ["smri+fmri"] * 10})
    people = Ranked(scans, {"smri": 400, "smri+fmri": 100})
    assert people.controls == pytest.approx((0.5 / 20 + 0.5 / 10) ** -2)
    assert 100 < (people.controls or 0) < 400
    assert people.effective < 20
    assert Ranked(scans, {"smri": 400}).controls is None


def test_a_middle_rank_is_the_middle_of_its_step() -> None:
    table = score_table(20).assign(bag_z=0.0, p_accelerated=[1 / 10] * 10 + [10 / 10] * 10)
    found = ranked(table, {"model": {"calibration": {"uniformity": {"smri": {"n": 9}}}}}, 20)
    assert found is not None
    assert sorted(set(found.scans["share"].round(6))) == [0.05, 0.95]
    assert ranked(table, {}, 21) is None
