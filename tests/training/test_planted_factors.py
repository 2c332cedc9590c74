"""Planted factors are found again: what both modalities share in the shared codes, and both beat one."""

from __future__ import annotations

import numpy as np
import torch

from hpc_brainage.config import load_config
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.objective import Batch, Objective, step_counts

PEOPLE, TRAINED, WIDTH, STEPS, BATCH = 900, 600, 20, 350, 64
ROLES = ("smri", "fmri")


def simulated() -> tuple[dict[str, torch.Tensor], torch.Tensor, np.ndarray]:
    """Inputs of two modalities, ages, and the factors that both have: three shared, two of each alone."""
    draw = np.random.default_rng(4)
    shared = draw.normal(size=(PEOPLE, 3))
    x, age = {}, shared[:, 0].copy()
    for role in ROLES:
        distinct = draw.normal(size=(PEOPLE, 2))
        loadings = draw.normal(size=(5, WIDTH)) / np.sqrt(5)
        noise = 0.5 * draw.normal(size=(PEOPLE, WIDTH))
        x[role] = torch.from_numpy(np.c_[shared, distinct] @ loadings + noise).float()
        age += distinct[:, 0]
    age += 0.1 * draw.normal(size=PEOPLE)
    return x, torch.from_numpy((age - age.mean()) / age.std()).float(), shared


def explained(factor_NK: np.ndarray, code_ND: np.ndarray) -> float:
    """Share of the factors' variance in new people that a linear map of the codes explains."""
    half = len(code_ND) // 2
    design = np.c_[code_ND, np.ones(len(code_ND))]
    weights, *_ = np.linalg.lstsq(design[:half], factor_NK[:half], rcond=None)
    rest = factor_NK[half:] - design[half:] @ weights
    return float(1 - (rest**2).sum() / ((factor_NK[half:] - factor_NK[half:].mean(axis=0)) ** 2).sum())


def test_shared_factors_lie_in_shared_codes_and_both_modalities_beat_the_better_one() -> None:
    x, age, factors = simulated()
    config = load_config(
        None,
        [
            "model.shared=4",
            "model.distinct=4",
            "model.dropout=0.0",
            "model.linear_path=false",
            "loss.kl=0.03",
        ],
    )
    torch.manual_seed(0)
    branches = {role: BranchSpec("mlp", (32,), components=WIDTH) for role in ROLES}
    made = Objective(SAAVAE(branches, config.model), config)
    optimizer = torch.optim.Adam(made.parameters(), lr=4e-3)
    order = np.random.default_rng(0)
    for step in range(STEPS):
        rows = torch.from_numpy(order.choice(TRAINED, BATCH, replace=False))
        present = {role: torch.ones(BATCH, dtype=torch.bool) for role in ROLES}
        sex = rows % 2
        batch = Batch(
            x={role: x[role][rows] for role in ROLES}, present=present, sex=sex, age=age[rows], scan=rows,
            counts=step_counts(present, sex), seed=0, step=step, progress=step / STEPS,
        )  # fmt: skip
        optimizer.zero_grad()
        made(batch)[0].backward()
        optimizer.step()

    model, new = made.model, slice(TRAINED, PEOPLE)
    inputs = {role: x[role][new] for role in ROLES}
    everyone = torch.ones(PEOPLE - TRAINED, dtype=torch.bool)
    with torch.no_grad():
        codes = model.encode(inputs, dict.fromkeys(ROLES, everyone))
        error = {
            seen: model.regress(
                codes,
                inputs,
                {role: everyone if role in seen else ~everyone for role in ROLES},
                torch.arange(TRAINED, PEOPLE) % 2,
            )
            .mean.sub(age[new])
            .abs()
            .numpy()
            for seen in (ROLES, ROLES[:1], ROLES[1:])
        }
        rebuilt = {
            role: (model.impute(role, codes) - inputs[role]).square().mean() / inputs[role].var()
            for role in ROLES
        }
    for role in ROLES:
        in_shared = explained(factors[new], codes[role].shared.numpy())
        in_distinct = explained(factors[new], codes[role].distinct.numpy())
        assert in_shared > in_distinct + 0.2, (role, in_shared, in_distinct)
        assert in_shared > 0.5, (role, in_shared)
        assert rebuilt[role] < 0.9, (role, rebuilt[role])
    better = min(ROLES, key=lambda role: error[(role,)].mean())
    gain = error[(better,)] - error[ROLES]
    again = np.random.default_rng(1).integers(0, len(gain), (2000, len(gain)))
    assert np.quantile(gain[again].mean(axis=1), 0.005) > 0.05 * error[(better,)].mean()
