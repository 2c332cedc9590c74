"""A training scan is known by its features, and a stranger is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.model.fingerprint import Fingerprints, take_fingerprints

PEOPLE, REGIONS = 60, 50
NAMES = [
    f"{side}_region{region:02}_{measure}"
    for region in range(REGIONS)
    for side in ("lh", "rh")
    for measure in ("area", "thickness", "volume")
]


def training(seed: int = 0) -> np.ndarray:
    """Features that have much in common, as thicknesses have."""
    draw = np.random.default_rng(seed)
    common = draw.normal(size=(PEOPLE, 1))
    return (2.5 + 0.1 * common + 0.12 * draw.normal(size=(PEOPLE, len(NAMES)))).astype(np.float32)


def taken(x: np.ndarray, names: list[str] | None = None, fold: np.ndarray | None = None) -> Fingerprints:
    prints = take_fingerprints(x, names or NAMES, np.arange(len(x)) if fold is None else fold, "salt")
    assert prints is not None
    return prints


def known(prints: Fingerprints, x: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """The folds that are found where a store has only the features to keep."""
    own = x if keep is None else np.where(keep, x, np.nan)
    return prints.held_out_in(own[:, prints.columns], "salt")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["float16", "two digits", "noise", "as it is"]))
def test_a_scan_is_known_after_another_conversion(seed: int, change: str) -> None:
    x, fold = training(seed), np.arange(PEOPLE) % 5
    prints = taken(x, fold=fold)
    again = {
        "float16": x.astype(np.float16).astype(np.float32),
        "two digits": np.round(x, 2),
        "noise": x * (1 + 1e-5 * np.random.default_rng(seed).normal(size=x.shape)).astype(np.float32),
        "as it is": x,
    }[change]
    order = np.random.default_rng(seed).permutation(PEOPLE)
    np.testing.assert_array_equal(known(prints, again[order]), fold[order])


@pytest.mark.parametrize("measure", ["area", "thickness", "volume"])
@pytest.mark.parametrize("only", [False, True])
def test_a_scan_is_known_without_a_measure_and_by_a_measure_alone(measure: str, only: bool) -> None:
    x = training()
    keep = np.array([name.endswith(measure) == only for name in NAMES])
    np.testing.assert_array_equal(known(taken(x), x, keep), np.arange(PEOPLE))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.9, 0.7, 0.5]))
def test_a_scan_is_known_by_a_random_half_of_the_features(seed: int, share: float) -> None:
    x = training()
    keep = np.random.default_rng(seed).permutation(len(NAMES)) < share * len(NAMES)
    prints = taken(x)
    whole = keep[prints.columns].reshape(-1, 3).all(axis=1).sum()
    expected = np.arange(PEOPLE) if whole >= 5 else np.full(PEOPLE, -1)
    np.testing.assert_array_equal(known(prints, x, keep), expected)
    assert whole >= 5 or share < 0.7


def test_strangers_and_other_salts_are_not_known() -> None:
    x = training()
    prints = taken(x)
    strangers = np.concatenate([training(seed) for seed in range(1, 150)])
    half = np.random.default_rng(0).permutation(len(NAMES)) < len(NAMES) / 2
    assert (known(prints, strangers) == -1).all()
    assert (known(prints, strangers, half) == -1).all()
    assert (prints.held_out_in(x[:, prints.columns], "pepper") == -1).all()


def test_among_many_a_block_that_two_share_does_not_hide_either() -> None:
    x = training()
    prints = taken(x)
    marks = prints.marks.copy()
    marks[1:] = np.where(np.arange(marks.shape[1]) < 40, marks[0], marks[1:])
    shared = Fingerprints(prints.columns, prints.step, marks, prints.fold)
    assert known(shared, x)[0] == 0


def test_a_scan_with_too_few_whole_blocks_is_not_known() -> None:
    x = training()
    prints = taken(x)
    own = x[:, prints.columns].copy()
    own[:, 15:] = np.nan
    assert (prints.held_out_in(own, "salt") == np.arange(PEOPLE)).all()
    own[:, 12:] = np.nan
    assert (prints.held_out_in(own, "salt") == -1).all()
    assert len(prints.held_out_in(own[:0], "salt")) == 0


def test_blocks_that_say_the_same_three_times_and_heavy_tails_mark_nobody() -> None:
    draw = np.random.default_rng(0)
    x = np.repeat(draw.normal(size=(PEOPLE, 60)), 3, axis=1) + 0.01 * draw.normal(size=(PEOPLE, 180))
    names = [f"region{i}" for i in range(180)]
    assert take_fingerprints(x, names, np.arange(PEOPLE), "salt") is None
    x = draw.normal(size=(PEOPLE, 60))
    x[0] *= 1e6
    prints = taken(x, names[:60])
    assert len(np.unique(prints.marks[:, 0])) > 0.75 * PEOPLE


@pytest.mark.parametrize("broken", ["few", "missing", "constant"])
def test_too_few_usable_features_give_no_fingerprint(broken: str) -> None:
    x = training()
    if broken == "few":
        x = x[:, :17]
    elif broken == "missing":
        x[3, 17:] = np.nan
    else:
        x[:, 17:] = 1.0
    assert take_fingerprints(x, NAMES[: x.shape[1]], np.zeros(PEOPLE), "salt") is None


@pytest.mark.real
def test_real_people_are_known_by_any_measure_or_atlas_and_never_mistaken(real_data: Path) -> None:
    table = pd.read_csv(real_data / "abide1" / "smri_freesurfer6.csv.gz").iloc[:, 1:]
    table = table.loc[:, table.notna().all()]
    x, names = table.to_numpy(np.float32), list(table.columns)
    prints = taken(x, names)
    ends = {m: np.array([name.endswith(m) for name in names]) for m in ("area", "thickness", "volume")}
    gyri = np.array([any(part in name for part in ("_G_", "_S_", "Pole_", "Lat_Fis")) for name in names])
    chosen = [*ends.values(), *(~own for own in ends.values()), gyri, ~gyri]
    draw = np.random.default_rng(0)
    chosen += [draw.permutation(len(names)) < share * len(names) for share in (0.7, 0.5, 0.5, 0.5)]
    for keep in chosen:
        np.testing.assert_array_equal(known(prints, x, keep), np.arange(len(x)))
        # Half of the people never saw the other half, and none of these is taken for one of those.
        strangers = known(taken(x[::2], names), x[1::2], keep)
        assert (strangers == -1).all()
    for decimals in (0, 1, 2):
        assert (known(prints, np.round(x, decimals)) == np.arange(len(x))).all()
