"""Small cohorts made of arrays, for tests of what happens after a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
from hpc_brainage.errors import ScanRefused
from hpc_brainage.files import sha256_of_file
from hpc_brainage.modality import Modality, ScaledIntegers, Stored
from hpc_brainage.store import schema


def features(n: int, name: str = "table", role: str = "smri") -> Modality:
    return Modality(role, name, "features", (n,), tuple(f"region {i}" for i in range(n)), ("mm",) * n)


def volume(shape: tuple[int, int, int] = (3, 4, 5), name: str = "vbm") -> Modality:
    affine = ((2.0, 0.0, 0.0, -90.0), (0.0, 2.0, 0.0, -126.0), (0.0, 0.0, 2.0, -72.0), (0.0, 0.0, 0.0, 1.0))
    return Modality("smri", name, "volume", shape, units=("",), affine=affine)


def surface(channels: int = 2, vertices: int = 6, name: str = "xhemi") -> Modality:
    named = tuple(f"channel {i}" for i in range(channels))
    return Modality("smri", name, "surface", (channels, vertices), named, ("mm",) * channels)


def people(n: int, seed: int = 0) -> pd.DataFrame:
    """A table of scans; two scans per participant, some ages unknown, further columns of all kinds."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(6, 88, n)
    age[::7] = np.nan
    return pd.DataFrame(
        {
            "participant_id": [f"{10**11 + i // 2:012d}" for i in range(n)],
            "session_id": [str(1 + i % 2) for i in range(n)],
            "run": "",
            "age": age,
            "sex": [("F", "M", "U")[i % 3] for i in range(n)],
            "site": [f"São {i % 4}" for i in range(n)],
            "split": "train",
            "diagnosis": "",
            "FIQ": np.where(np.arange(n) % 5 == 0, np.nan, 100.0 + np.arange(n)),
            "fiq": [f"{i}+" for i in range(n)],
            "scanner": [None if i % 3 else "Prisma" for i in range(n)],
        }
    )


def measurements(modality: Modality, n: int, seed: int = 0) -> np.ndarray:
    """Random values (n, *modality.shape); feature 0 is constant, others have gaps, image 0 is zero."""
    rng = np.random.default_rng([seed, len(modality.key)])
    values = rng.normal(100, 15, (n, *modality.shape)).astype(np.float32)
    if modality.kind == "features":
        values[rng.random(values.shape) < 0.1] = np.nan
        values[:, 0] = 1.5
    elif n:
        values[0] = 0
    return values


def scaled_integers(
    modality: Modality, n: int, numbers: str = "int16", seed: int = 0
) -> list[ScaledIntegers]:
    """Random integers of the whole range, each image with its own scale; that of the first is none."""
    rng, of = np.random.default_rng(seed), np.iinfo(numbers)
    images = rng.integers(of.min, of.max, (n, *modality.shape), dtype=numbers, endpoint=True)
    scales = [(1.0, 0.0), (0.1, 0.0), (-0.25, 7.3), (1.0, -1024.0)]
    return [ScaledIntegers(image, *scales[row % len(scales)]) for row, image in enumerate(images)]


def cohort_of(
    scans: pd.DataFrame,
    arrays: Mapping[Modality, Sequence[np.ndarray | ScaledIntegers] | np.ndarray],
    present: Mapping[str, np.ndarray] | None = None,
    refuse: Mapping[str, Sequence[int]] | None = None,
    name: str = "synthetic",
    stored: Mapping[str, Stored] | None = None,
) -> Cohort:
    """A cohort that loads rows of arrays; rows in `refuse`, by modality key, are refused instead.

    `stored`, by modality key, is how a store shall keep the numbers.
    """

    def source(
        modality: Modality, values: Sequence[np.ndarray | ScaledIntegers] | np.ndarray
    ) -> ModalitySource:
        refused = (refuse or {}).get(modality.key, ())

        def load(row: int) -> np.ndarray | ScaledIntegers:
            if row in refused:
                raise ScanRefused("is truncated", where="/private/place", expected="1000 bytes")
            return values[row]

        has = (present or {}).get(modality.key, np.ones(len(scans), dtype=bool))
        return ModalitySource(modality, has, load, stored=(stored or {}).get(modality.key, Stored()))

    return Cohort(
        name, scans, {modality.key: source(modality, values) for modality, values in arrays.items()}
    )


def mixed_cohort(n: int = 21, seed: int = 0) -> tuple[Cohort, dict[str, np.ndarray]]:
    """Features, a volume and a surface, each missing for some scans; row 5 has nothing at all."""
    arrays = {m: measurements(m, n, seed) for m in (features(7), volume(), surface())}
    rng = np.random.default_rng(seed + 1)
    present = {modality.key: rng.random(n) < 0.7 for modality in arrays}
    for has in present.values():
        has[0] = True
        has[5:6] = False
    cohort = cohort_of(people(n, seed), arrays, present)
    return cohort, {modality.key: values for modality, values in arrays.items()}


@contextmanager
def small_shards(longest: int = 4, chunk_bytes: int = 64) -> Iterator[None]:
    """Lay stores out in shards of a few scans, so that a few scans already make several parts."""
    with patch.multiple(schema, LONGEST_SHARD=longest, FEATURE_CHUNK_BYTES=chunk_bytes):
        yield


@contextmanager
def without_flushing() -> Iterator[None]:
    """Leave the device alone, where many stores are made and none has to survive a power cut."""
    with patch("os.fsync"):
        yield


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder, hidden ones too."""
    return {
        str(file.relative_to(folder)): sha256_of_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
