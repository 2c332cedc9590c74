"""Simulated people whose true brain age is known: the planted truth of a simulated cohort.

Each person has an age and a *brain age*, from which everything that a scanner could measure follows:

    structural brain age  = age + shared gap + structural gap
    functional brain age  = age + shared gap + functional gap

The gaps are normal with standard deviations that grow with age (`SHARED_GAP`, `OWN_GAP`), so that the
shared gap is what sMRI and fMRI agree on and the other two are what each sees alone. A brain of age t
enters every measurement through three curves (`ageing_curves`): maturation that is over by thirty, a
steady decline, and a loss that sets in after fifty. On top lie sex, head size, the scanner, a few
person-specific factors that have nothing to do with age, and noise.

The anatomy (how strongly each region follows each curve) is the same for every seed, so a model that
was trained on one simulated cohort can score another; people, scanners and noise follow the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.openbhb_names import FREESURFER_CHANNELS

YOUNGEST, OLDEST = 6.0, 88.0
SHARED_GAP = (1.0, 0.06)  # standard deviation in years: at birth, and growth per year of age
OWN_GAP = (0.7, 0.04)
SPLIT_SHARES = {"internal_test": 0.09, "external_test": 0.10}  # OpenBHB: 362 and 395 of 3,984
TRAIN_SCANNERS, EXTERNAL_SCANNERS = 12, 3
PERSON_FACTORS = 6

_ANATOMY_SEED = 20_220_901
_MEAN_HEAD_CM3 = 1480.0

# Per FreeSurfer channel: typical value, its spread between regions (log), the change over life that
# the steady decline makes (log), how it grows with head size (power), and the decimals in the table.
_CHANNEL_FACTS: dict[str, tuple[float, float, float, float, int]] = {
    "surface_area_mm^2": (1800.0, 0.6, -0.09, 0.67, 0),
    "gray_matter_volume_mm^3": (5200.0, 0.6, -0.26, 0.9, 0),
    "average_thickness_mm": (2.65, 0.1, -0.17, 0.05, 3),
    "thickness_stddev_mm": (0.62, 0.12, 0.06, 0.05, 3),
    "integrated_rectified_mean_curvature_mm^-1": (0.13, 0.1, 0.05, -0.3, 4),
    "integrated_rectified_gaussian_curvature_mm^-2": (0.031, 0.2, 0.06, -0.5, 4),
    "intrinsic_curvature_index": (3.4, 0.6, 0.05, 0.2, 2),
}
assert tuple(_CHANNEL_FACTS) == FREESURFER_CHANNELS


@dataclass(frozen=True)
class Measurements:
    """How one table of F measurements depends on a person.

    Parameters
    ----------
    base : shape (F,), value of an average person before any ageing.
    ageing : (3, F), change along the three curves; relative (log) if `multiplicative`, else absolute.
    sex : (F,), change for a man.
    head : (F,), change for each log unit of head size.
    factors : (`PERSON_FACTORS`, F), change for each standard deviation of a person factor.
    scanner_sd, noise_sd : standard deviation of a scanner's offset and of the noise.
    decimals : (F,), digits kept after the point.
    multiplicative : the changes multiply the base (anatomy) or add to it (connectivity).
    """

    base: np.ndarray
    ageing: np.ndarray
    sex: np.ndarray
    head: np.ndarray
    factors: np.ndarray
    scanner_sd: float
    noise_sd: float
    decimals: np.ndarray
    multiplicative: bool

    def scanner_offsets(self, scanners: int, seed: tuple[int, ...]) -> np.ndarray:
        """Offsets of every scanner, shape (scanners, F): a common part and one of each column."""
        rng = np.random.default_rng(seed)
        common = rng.normal(0.0, 0.5 * self.scanner_sd, (scanners, 1))
        return common + rng.normal(0.0, self.scanner_sd, (scanners, len(self.base)))

    def measure(
        self,
        people: pd.DataFrame,
        brain_age: np.ndarray,
        offsets_SF: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Measure a block of people: shape (people, F), float64, rounded as a table would print it."""
        change_NF = ageing_curves(brain_age) @ self.ageing
        change_NF += np.outer(people["male"], self.sex)
        change_NF += np.outer(np.log(people["tiv"] / _MEAN_HEAD_CM3), self.head)
        change_NF += rng.normal(size=(len(people), PERSON_FACTORS)) @ self.factors
        change_NF += offsets_SF[people["scanner"]]
        change_NF += rng.normal(0.0, self.noise_sd, change_NF.shape)
        value_NF = self.base * np.exp(change_NF) if self.multiplicative else self.base + change_NF
        scale_F = 10.0**self.decimals
        return np.rint(value_NF * scale_F) / scale_F


def ageing_curves(brain_age: np.ndarray) -> np.ndarray:
    """Three curves of a brain of the given age in years, shape (people, 3).

    Maturation falls from 1 at six years to 0.06 at thirty; decline rises evenly from 0 to 1 between 6
    and 88; late loss stays near 0 until fifty and reaches 1 at 88.
    """
    maturation = np.exp(-(brain_age - YOUNGEST) / 8.5)
    decline = (brain_age - YOUNGEST) / (OLDEST - YOUNGEST)
    late = np.logaddexp(0.0, (brain_age - 58.0) / 7.0) / np.logaddexp(0.0, (OLDEST - 58.0) / 7.0)
    return np.column_stack([maturation, decline, late])


def draw_people(scans: int, seed: int) -> pd.DataFrame:
    """Draw the people of a cohort, one scan each.

    Returns
    -------
    One row per person: `participant_id` (12 digits), `age` (years), `male` (0 or 1), `tiv` (cm^3),
    `scanner` (from 0; the last `EXTERNAL_SCANNERS` only occur in the external test split), `split`,
    and the three gaps in years. Identities are unique and in no order of age, split or scanner.
    """
    rng = np.random.default_rng((seed, 0))
    spacing = 900_000_000_000 // scans
    ids = 100_000_000_000 + np.arange(scans) * spacing + rng.integers(0, spacing, scans)

    # OpenBHB is mostly students, with some children and a long tail up to 88 years.
    group = rng.choice(3, size=scans, p=(0.20, 0.60, 0.20))
    age = np.choose(
        group,
        [
            rng.uniform(YOUNGEST, 18.0, scans),
            18.0 + rng.gamma(2.0, 3.5, scans),
            rng.uniform(35.0, OLDEST, scans),
        ],
    )
    age = np.round(np.clip(age, YOUNGEST, OLDEST), 2)
    male = rng.integers(0, 2, scans)
    tiv = np.round(rng.normal(1400.0 + 150.0 * male, 105.0), 2)

    split = np.full(scans, "train", dtype=object)
    order = rng.permutation(scans)
    internal, external = (round(scans * share) for share in SPLIT_SHARES.values())
    split[order[:internal]] = "internal_test"
    split[order[internal : internal + external]] = "external_test"
    scanner = np.empty(scans, dtype=np.int64)
    train = np.flatnonzero(split == "train")
    scanner[train] = rng.permutation(np.arange(len(train)) % TRAIN_SCANNERS)
    scanner[split == "internal_test"] = rng.choice(np.unique(scanner[train]), internal)
    scanner[split == "external_test"] = TRAIN_SCANNERS + rng.integers(0, EXTERNAL_SCANNERS, external)

    def gap(spread: tuple[float, float]) -> np.ndarray:
        return rng.normal(size=scans) * (spread[0] + spread[1] * age)

    return pd.DataFrame(
        {
            "participant_id": ids,
            "age": age,
            "male": male,
            "tiv": tiv,
            "scanner": scanner,
            "split": split,
            "shared_gap": gap(SHARED_GAP),
            "structural_gap": gap(OWN_GAP),
            "functional_gap": gap(OWN_GAP),
        }
    )


def cortical_measurements(regions: tuple[str, ...], table: int) -> Measurements:
    """FreeSurfer's seven channels of the given regions, channel-major; `table` numbers the atlas."""
    rng = np.random.default_rng((_ANATOMY_SEED, table))
    n = len(regions)
    facts = list(_CHANNEL_FACTS.values())
    total = n * len(facts)
    # The atlas sets how large a region is, so that size is shared by its area and its volume.
    size_R = rng.normal(size=n)
    decline_F = np.concatenate([rng.normal(fact[2], 0.5 * abs(fact[2]), n) for fact in facts])
    return Measurements(
        base=np.concatenate([fact[0] * np.exp(fact[1] * size_R) for fact in facts]),
        ageing=np.stack(
            [
                rng.normal(-0.6, 0.4, total) * decline_F,
                decline_F,
                rng.normal(0.6, 0.3, total) * decline_F,
            ]
        ),
        sex=rng.normal(0.0, 0.015, total),
        head=np.repeat([fact[3] for fact in facts], n),
        factors=rng.normal(0.0, 0.02, (PERSON_FACTORS, total)),
        scanner_sd=0.03,
        noise_sd=0.08,
        decimals=np.repeat([fact[4] for fact in facts], n),
        multiplicative=True,
    )


def volumetric_measurements(regions: tuple[str, ...], table: int) -> Measurements:
    """CAT12's volumes of the given regions: grey matter shrinks with age, fluid grows."""
    rng = np.random.default_rng((_ANATOMY_SEED, table))
    n = len(regions)
    fluid_F = np.array(["_CSF_" in region for region in regions])
    decline_F = np.where(fluid_F, rng.normal(0.4, 0.2, n), rng.normal(-0.25, 0.12, n))
    return Measurements(
        base=np.where(fluid_F, 0.8, 3.5) * np.exp(rng.normal(0.0, 0.7, n)),
        ageing=np.stack(
            [rng.normal(-0.5, 0.3, n) * decline_F, decline_F, rng.normal(0.7, 0.3, n) * decline_F]
        ),
        sex=rng.normal(0.0, 0.02, n),
        head=np.where(fluid_F, 1.2, 0.9),
        factors=rng.normal(0.0, 0.03, (PERSON_FACTORS, n)),
        scanner_sd=0.03,
        noise_sd=0.08,
        decimals=np.full(n, 4),
        multiplicative=True,
    )


def connectivity_measurements(edges: int, table: int) -> Measurements:
    """Fisher-z connectivity of the given number of edges: networks segregate, then blur with age."""
    rng = np.random.default_rng((_ANATOMY_SEED, table))
    decline_F = rng.normal(-0.08, 0.22, edges)
    return Measurements(
        base=rng.normal(0.35, 0.25, edges),
        ageing=np.stack([rng.normal(0.0, 0.12, edges), decline_F, rng.normal(0.4, 0.4, edges) * decline_F]),
        sex=rng.normal(0.0, 0.02, edges),
        head=np.zeros(edges),
        factors=rng.normal(0.0, 0.06, (PERSON_FACTORS, edges)),
        scanner_sd=0.05,
        noise_sd=0.24,
        decimals=np.full(edges, 4),
        multiplicative=False,
    )
