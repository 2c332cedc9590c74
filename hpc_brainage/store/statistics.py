"""Count, mean, spread and range that can be computed in pieces and merged.

Each part of a conversion knows only its own scans. Their statistics are merged with the formula of
Chan, Golub and LeVeque (1979), *Updating formulae and a pairwise algorithm for computing sample
variances*; any grouping gives what one pass over everything gives, up to float64 rounding.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

_KINDS = {"count": "<i8", "mean": "<f8", "m2": "<f8", "min": "<f8", "max": "<f8"}


@dataclass(frozen=True)
class Statistics:
    """What is known about each feature of a modality, or about all voxels of an image modality.

    Parameters
    ----------
    count : int64, values seen; missing ones (NaN) are not counted.
    mean : float64, NaN where nothing was counted.
    m2 : float64, sum of squared differences from the mean.
    min, max : float64, NaN where nothing was counted.

    All have the shape (features,), or () for volumes and surfaces.
    """

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @classmethod
    def nothing(cls, shape: tuple[int, ...] = ()) -> Statistics:
        """Statistics of no scans at all."""
        unknown = np.full(shape, np.nan)
        return cls(np.zeros(shape, np.int64), unknown, np.zeros(shape), unknown, unknown)

    @classmethod
    def of_features(cls, block: np.ndarray) -> Statistics:
        """Per column of a block of shape (scans, features); NaN is missing."""
        if len(block) == 0:
            return cls.nothing(block.shape[1:])
        values = block.astype(np.float64)
        missing = np.isnan(values)
        count = len(values) - missing.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            lowest, highest = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
            values[missing] = 0.0
            mean = values.sum(axis=0) / count
            values -= mean
        values[missing] = 0.0
        m2 = np.einsum("ij,ij->j", values, values)
        m2 = np.where(count > 0, m2, 0.0)
        return cls(count.astype(np.int64), mean, m2, lowest, highest)

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of both sets of scans together."""
        count = self.count + other.count
        with np.errstate(invalid="ignore", divide="ignore"):
            share = other.count / count
            difference = other.mean - self.mean
            mean = self.mean + difference * share
            m2 = self.m2 + other.m2 + difference**2 * self.count * share
        mean = np.where(other.count == 0, self.mean, np.where(self.count == 0, other.mean, mean))
        m2 = np.where(other.count == 0, self.m2, np.where(self.count == 0, other.m2, m2))
        return Statistics(
            np.asarray(count), mean, m2, np.fmin(self.min, other.min), np.fmax(self.max, other.max)
        )

    def to_record(self) -> dict[str, Any]:
        """JSON-able and exact: the little-endian bytes in Base64, since numbers as text take seconds."""
        return {"shape": list(self.count.shape)} | {
            name: base64.b64encode(getattr(self, name).astype(kind).tobytes()).decode()
            for name, kind in _KINDS.items()
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Statistics:
        return cls(
            *(
                np.frombuffer(base64.b64decode(record[name]), kind).reshape(record["shape"])
                for name, kind in _KINDS.items()
            )
        )
