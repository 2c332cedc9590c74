"""A training scan is known by its features, and a stranger is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.model.fingerprint import take_fingerprints

PEOPLE, FEATURES = 60, 150


def training(seed: int = 0) -> np.ndarray:
    """Features that have much in common, as thicknesses have."""
    draw = np.random.default_rng(seed)
    common = draw.normal(size=(PEOPLE, 1))
    return (2.5 + 0.1 * common + 0.12 * draw.normal(size=(PEOPLE, FEATURES))).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["float16", "three digits", "noise", "as it is"]))
def test_a_scan_is_known_after_another_conversion(seed: int, change: str) -> None:
    x, fold = training(seed), np.arange(PEOPLE) % 5
    prints = take_fingerprints(x, fold, "salt")
    assert prints is not None
    again = {
        "float16": x.astype(np.float16).astype(np.float32),
        "three digits": np.round(x, 3),
        "noise": x * (1 + 1e-5 * np.random.default_rng(seed).normal(size=x.shape)).astype(np.float32),
        "as it is": x,
    }[change]
    order = np.random.default_rng(seed).permutation(PEOPLE)
    found = prints.held_out_in(again[order][:, prints.columns], "salt")
    assert (found == fold[order]).mean() > 0.97
    assert set(found[found != fold[order]]) <= {-1}, "nobody is taken for somebody else"


def test_strangers_and_other_salts_are_not_known() -> None:
    x = training()
    prints = take_fingerprints(x, np.zeros(PEOPLE), "salt")
    assert prints is not None
    strangers = np.concatenate([training(seed) for seed in range(1, 40)])
    assert (prints.held_out_in(strangers[:, prints.columns], "salt") == -1).all()
    assert (prints.held_out_in(x[:, prints.columns], "pepper") == -1).all()


def test_missing_features_leave_the_other_blocks_to_know_a_scan_by() -> None:
    x = training()
    prints = take_fingerprints(x, np.arange(PEOPLE), "salt")
    assert prints is not None
    own = x[:, prints.columns].copy()
    own[:, :32] = np.nan  # four of eight blocks
    assert (prints.held_out_in(own, "salt") == np.arange(PEOPLE)).all()
    own[:, 8:] = np.nan
    assert (prints.held_out_in(np.full_like(own, np.nan), "salt") == -1).all()


@pytest.mark.parametrize("broken", ["few", "missing", "constant"])
def test_too_few_usable_features_give_no_fingerprint(broken: str) -> None:
    x = training()
    if broken == "few":
        x = x[:, :17]
    elif broken == "missing":
        x[3, 17:] = np.nan
    else:
        x[:, 17:] = 1.0
    assert take_fingerprints(x, np.zeros(PEOPLE), "salt") is None
