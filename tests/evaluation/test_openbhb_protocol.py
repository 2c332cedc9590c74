"""OpenBHB's protocol on codes whose age and site signals are known, and on a trained member."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_brainage.cohorts.simulation import simulate_openbhb
from hpc_brainage.cohorts.sources import open_cohort
from hpc_brainage.config import load_config
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.openbhb import (
    challenge,
    challenge_members,
    challenge_score,
    constant_challenge,
    published_runs,
)
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import load_training_data
from hpc_brainage.training.distributed import join_processes
from hpc_brainage.training.loop import MemberTask, train_member

N = 420
DRAW = np.random.default_rng(0)
AGE = DRAW.uniform(6, 88, N)
SPLIT = np.array(["train"] * 300 + ["internal_test"] * 60 + ["external_test"] * 60)
SITE_NUMBER = np.where(SPLIT == "external_test", 6 + np.arange(N) % 2, np.arange(N) % 6)
SITE = np.array([f"site {number}" for number in SITE_NUMBER])


def codes(age_signal: float, site_signal: float) -> np.ndarray:
    """Eight numbers with noise; one carries the age, four the site."""
    made = np.random.default_rng(1).normal(size=(N, 8))
    made[:, 0] += age_signal * (AGE - 45) / 20
    made[:, 1:5] += site_signal * np.random.default_rng(2).normal(size=(8, 4))[SITE_NUMBER]
    return made


def test_age_and_site_are_found_where_they_were_planted() -> None:
    age_only = challenge("age", codes(5, 0), AGE, SITE, SPLIT)
    both = challenge("both", codes(5, 5), AGE, SITE, SPLIT)
    neither = challenge("neither", codes(0, 0), AGE, SITE, SPLIT)
    nothing = constant_challenge(AGE, SITE, SPLIT)
    assert age_only.internal_mae < 5 < 15 < neither.internal_mae
    assert both.site_accuracy > 0.9
    assert age_only.site_accuracy < 0.35
    assert nothing.site_accuracy == pytest.approx(1 / 6)
    assert neither.external_mae == pytest.approx(nothing.external_mae, rel=0.1)
    assert age_only.score < both.score < nothing.score


def test_the_score_is_external_error_times_accuracy_to_the_three_tenths() -> None:
    found = challenge("both", codes(5, 5), AGE, SITE, SPLIT)
    assert found.score == pytest.approx(found.external_mae * found.site_accuracy**0.3)
    assert challenge_score(3.761, 0.051) == pytest.approx(1.54, abs=0.005)


def test_the_sites_of_the_external_test_are_not_looked_at() -> None:
    hidden = np.where(SPLIT == "external_test", "", SITE)
    assert challenge("x", codes(3, 3), AGE, SITE, SPLIT) == challenge("x", codes(3, 3), AGE, hidden, SPLIT)


def test_test_people_teach_nothing() -> None:
    """Other codes of half the internal test people leave what is said of the external ones."""
    other = codes(3, 3)
    other[300:330] += 100.0
    before, after = challenge("x", codes(3, 3), AGE, SITE, SPLIT), challenge("x", other, AGE, SITE, SPLIT)
    assert after.external_mae == before.external_mae
    assert after.internal_mae != before.internal_mae


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": np.array(["train"] * N)}, "needs three splits"),
        ({"codes": np.zeros((N, 10_001))}, "codes of 10001 numbers"),
        ({"codes": np.full((N, 3), np.nan)}, "codes or ages are missing"),
        ({"site": np.array(["one"] * N)}, "no site to tell"),
    ],
)
def test_what_the_protocol_cannot_work_on_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    given = {"codes": codes(1, 1), "site": SITE, "split": SPLIT} | change
    with pytest.raises(UsageError, match=message):
        challenge("x", given["codes"], AGE, given["site"], given["split"])


def test_another_table_is_no_table_of_published_runs(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="not a table of published runs"):
        published_runs(path)
    with pytest.raises(UsageError, match="not a table of published runs"):
        published_runs(tmp_path / "nowhere.csv")


@pytest.mark.real
def test_published_scores_follow_from_their_parts(real_data: Path) -> None:
    """Means over three runs each: the score of the means is the mean score, but for rounding."""
    runs = published_runs(real_data / "openbhb_resources" / "eidoslab_leaderboard_runs.csv")
    assert len(runs) == 12
    for run in runs:
        assert challenge_score(run.external_mae, run.site_accuracy) == pytest.approx(run.score, rel=0.01)
    best = min(runs, key=lambda run: run.score)
    assert (best.internal_mae, best.external_mae, best.site_accuracy) == (2.552, 3.761, 0.051)


def test_a_member_s_codes_of_a_simulated_openbhb_hold_the_age(tmp_path: Path) -> None:
    folder = simulate_openbhb(tmp_path / "openbhb", scans=200, volumes=0).folder
    config = load_config(settings=[
        "smri.tables=['vbm_roi']", "fmri.use=false", "smri.components=32", "smri.hidden=[32]",
        "model.shared=4", "model.distinct=4", "training.epochs=15", "training.batch_size=32",
        "training.learning_rate=5e-3", "training.device='cpu'",
    ])  # fmt: skip
    data = load_training_data(
        Store.open(convert(open_cohort(folder), tmp_path / "openbhb.zarr").store_path), config
    )
    train = np.flatnonzero((data.scans["split"] == "train").to_numpy())
    member, _ = train_member(
        data, MemberTask(0, train, 0), config, join_processes("cpu"), lambda record: None
    )
    nothing, components, own = challenge_members([member], data)
    assert own.name == "codes of member 0"
    assert components.name == "first 8 principal components"
    assert own.internal_mae < 0.7 * nothing.internal_mae
    assert own.external_mae < 0.7 * nothing.external_mae
    assert components.external_mae < nothing.external_mae
