"""What local controls make of z, p and 90 % intervals at a site that a model never saw.

    python tools/check_sites.py [--model RUN/model] [--offset 3] [--scale 1.3] [--controls 20,50,200]
                                [--sites 200] [--seed 0]

Without a model, the truth is planted: gaps of 2,000 controls of the training fall with age, spread with it
and are skewed (a gamma distribution of shape 6), norms and intervals are fitted to them, and at each of the
sites `--offset` years are added to everybody's gap and its spread is multiplied by `--scale`. With a model,
gaps are drawn from its own held-out controls, and ages evenly from those that its norms speak of, so that
its own intervals need not hold nine in ten.

Each site has so many local controls and 400 other people, who are healthy, too: nine in ten of their ages
should be in the intervals, a twentieth should have p < 0.05, and z should have a mean of 0 and an SD of 1.
Means over sites are printed, with the 5th and 95th percentile of the sites where one site says something.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.model.bundle import read_info
from hpc_brainage.model.calibration import Calibration, Group
from hpc_brainage.scoring.normative import (
    against_norms,
    fit_norms,
    normative_z,
    outside,
    p_accelerated,
    standardised_controls,
)
from hpc_brainage.scoring.site_uncertainty import calibrate_uncertainty
from hpc_brainage.scoring.uncertainty import Predicted, fit_intervals, half_widths

OTHERS = 400
Draw = Callable[[np.random.Generator, int, float, float], Predicted]
"""People of a site: how many, its offset in years, its scale."""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--model", type=Path)
    words.add_argument("--offset", type=float, default=3.0)
    words.add_argument("--scale", type=float, default=1.3)
    words.add_argument("--controls", default="20,50,200")
    words.add_argument("--sites", type=int, default=200)
    words.add_argument("--seed", type=int, default=0)
    said = words.parse_args()
    draw = np.random.default_rng(said.seed)
    print(f"offset {said.offset:+g} y, scale {said.scale:g}, {said.sites} sites, seed {said.seed}")
    print("| from | controls | ages in intervals | p < 0.05 | mean of z | SD of z |")
    print("|---|---|---|---|---|---|")
    for name, (group, people) in sources(said.model).items():
        for n in map(int, said.controls.split(",")):
            before, after = [], []
            for _ in range(said.sites):
                own, others = (people(draw, many, said.offset, said.scale) for many in (n, OTHERS))
                calibration = Calibration(controls="", n=group.n, groups={"smri": group})
                scored, _ = calibrate_uncertainty(table(group, others), table(group, own), calibration)
                before.append(judged(scored, ""))
                after.append(judged(scored, "_site_calibrated"))
            if n == int(said.controls.split(",")[0]):
                print(f"| {name} | none | {cells(before)} |")
            print(f"| {name} | {n} | {cells(after)} |")


def sources(model: Path | None) -> dict[str, tuple[Group, Draw]]:
    """Whose norms and intervals are used, by name, and how people are drawn that they hold for."""
    if model is None:
        known = planted(np.random.default_rng(1), 2000, 0.0, 1.0)
        return {"planted": (Group(n=2000, intervals=fit_intervals(known), norms=fit_norms(known)), planted)}
    found = read_info(model).calibration
    if found is None:
        raise SystemExit(f"{model} has no calibration")
    return {
        name: (group, drawn_from(group)) for name, group in found.groups.items() if group.norms is not None
    }


def planted(draw: np.random.Generator, n: int, offset: float, scale: float) -> Predicted:
    age = draw.uniform(18, 70, n)
    error = (draw.gamma(6, size=n) - 6) / np.sqrt(6) * (2 + 0.05 * age)
    return people_of(draw, age, 12 + 0.7 * age + offset + scale * error)


def drawn_from(group: Group) -> Draw:
    norms = group.norms
    assert norms is not None
    held = standardised_controls(norms)
    ages = np.linspace(norms.age_min, norms.age_max, 400)
    ages = ages[~outside(norms, ages)]

    def of_the_model(draw: np.random.Generator, n: int, offset: float, scale: float) -> Predicted:
        age = draw.choice(ages, n)
        unknown = np.full(n, "U", dtype=object)
        excess, spread = against_norms(norms, np.zeros(n), age, unknown)
        gap = -excess + offset + scale * spread * draw.choice(held, n)
        return people_of(draw, age, age + gap, "U")

    return of_the_model


def people_of(
    draw: np.random.Generator, age: np.ndarray, predicted: np.ndarray, sex: str = ""
) -> Predicted:
    sexes = (
        np.full(len(age), sex, dtype=object) if sex else draw.choice(np.array(["F", "M"], object), len(age))
    )
    return Predicted(predicted, age, np.full(len(age), np.nan), sexes, draw.integers(0, 5, len(age)))


def table(group: Group, own: Predicted) -> pd.DataFrame:
    """A score table of these people, all of one site that the model never saw."""
    assert group.norms is not None
    half = half_widths(group.intervals, own)
    z = normative_z(group.norms, own.predicted - own.age, own.age, own.sex)
    return pd.DataFrame(
        {
            "site": "new", "site_seen": False, "status": "scored", "age": own.age, "sex": own.sex,
            "has_smri": True, "has_fmri": False, "brain_age": own.predicted, "bag": own.predicted - own.age,
            "pi90_lo": own.predicted - half, "pi90_hi": own.predicted + half,
            "bag_z": z, "p_accelerated": p_accelerated(group.norms, z),
            "site_calibration": "", "site_offset": np.nan, "site_scale": np.nan,
            "bag_site_calibrated": np.nan,
        }
    )  # fmt: skip


def judged(scored: pd.DataFrame, end: str) -> tuple[float, ...]:
    """Shares of ages in intervals and of p < 0.05, mean and SD of z."""
    low, high = (scored[f"pi90_{side}{end}"] for side in ("lo", "hi"))
    held = ((scored["age"] >= low) & (scored["age"] <= high))[low.notna()]
    known = scored[scored[f"bag_z{end}"].notna()]
    alarms, z = known[f"p_accelerated{end}"] < 0.05, known[f"bag_z{end}"]
    return (held.mean() if len(held) else np.nan, alarms.mean(), z.mean(), z.std())


def cells(sites: list[tuple[float, ...]]) -> str:
    mean = np.mean(sites, axis=0)
    low, high = np.quantile(sites, [0.05, 0.95], axis=0)
    held = "" if np.isnan(mean[0]) else f"{mean[0]:.1%} ({low[0]:.0%} to {high[0]:.0%})"
    return f"{held} | {mean[1]:.1%} ({low[1]:.0%} to {high[1]:.0%}) | {mean[2]:+.2f} | {mean[3]:.2f}"


if __name__ == "__main__":
    main()
