"""A small cohort with a planted truth: a brain age that both modalities share, and more of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
from hpc_brainage.conversion.convert import convert
from hpc_brainage.modality import Modality

SMRI, FMRI, GRID = 30, 20, (12, 14, 12)


def planted_cohort(
    people: int = 120, seed: int = 0, *, volumes: bool = False, name: str = "planted"
) -> Cohort:
    """People of 10 to 80 years; the last sixth lacks fMRI, two have sMRI missing.

    Features are linear in age, in a latent that both modalities share and in one of their own, with
    noise. The loadings are the same for every seed, so that a model of one cohort fits another.
    """
    draw, loadings = np.random.default_rng(seed), np.random.default_rng(99)
    age = draw.uniform(10, 80, people)
    latent = (age - 45) / 20 + draw.normal(0, 0.15, people)
    sex = np.where(draw.random(people) < 0.5, "F", "M")
    scans = pd.DataFrame(
        {
            "participant_id": [f"{seed:02d}{i:05d}" for i in range(people)],
            "session_id": "",
            "run": "",
            "age": age,
            "sex": sex,
            "site": [f"site {i % 3}" for i in range(people)],
            "split": "",
            "diagnosis": np.where(draw.random(people) < 0.3, "case", "control"),
        }
    )
    sources = {}
    for role, width in (("smri", SMRI), ("fmri", FMRI)):
        own = draw.normal(size=(people, 2)) @ loadings.normal(size=(2, width))
        by_sex = np.outer(sex == "M", loadings.normal(size=width))
        x = np.outer(latent, loadings.normal(size=width)) + own + by_sex + draw.normal(size=(people, width))
        x = (100 + 10 * x).astype(np.float32)
        present = np.ones(people, dtype=bool)
        if role == "fmri":
            present[-people // 6 :] = False
        else:
            present[:2] = False
        names = tuple(f"{role} region {i}" for i in range(width))
        modality = Modality(role, "table", "features", (width,), names, ("mm",) * width)  # type: ignore[arg-type]
        sources[modality.key] = ModalitySource(modality, present, lambda row, x=x: x[row])
    if volumes:
        image = Modality("smri", "vbm", "volume", GRID, units=("",))
        blob = np.exp(-((np.indices(GRID) - 6) ** 2).sum(0) / 20)
        noise = draw.normal(0, 0.02, (people, *GRID))
        scale = (1.5 - 0.01 * age)[:, None, None, None]
        values = (scale * blob + noise).astype(np.float32)
        everyone = np.ones(people, dtype=bool)
        sources[image.key] = ModalitySource(image, everyone, lambda row: values[row])
    return Cohort(name, scans, sources, recipe={"reader": "planted"})


def planted_store(folder: Path, people: int = 120, seed: int = 0, **settings: object) -> Path:
    """The cohort's store."""
    cohort = planted_cohort(people, seed, **settings)  # type: ignore[arg-type]
    return convert(cohort, folder / f"{cohort.name}.zarr").store_path
