"""Recognising a training scan by its features, whoever converted it and under whatever name.

The checksum of a measurement in a store is of its very bytes: another conversion of the same scan, with
another selection or order of features or with a digit less, has another checksum. A fingerprint is made of
some of the model's features, found by name and rounded, in many small blocks, each hashed. A block lies
within one kind of measure, so that a store without another kind still has it whole. A scan is known if so
many of its whole blocks are those of one training scan that it is no accident: 5 of 5, 8 of 27, 11 of 96.

A mark has one of 255 values only. Three rounded values could be found from a long hash by trying them all;
so many combinations have the same short one that it does not tell them. By chance a block of two people is
the same with a probability of 1/255, and of (STEP / 2√π)³ = 2e-5, at most three times that, as their values
are the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np

BLOCKS, WIDTH = 96, 3
"""At most so many blocks of so many features; fewer blocks where a model takes few features."""
_FEWEST_BLOCKS = 6
LEAST_CHANCE = 1e-11
"""That a stranger is taken for a given training scan has at most this probability."""
_VALUES, _ACCIDENT = 255, 1 / 200
STEP = 0.1
"""Values are rounded to this share of the feature's standard deviation among the training people."""
_LEAST_UNIQUE = 0.1
_LEAST_DETERMINANT = 0.1
"""Of a block's correlations: the chance of the same block by accident grows with one over its root."""
_COMMON = 0.05
_IQR_OF_NORMAL = 1.349
_NOTHING = 0
_SCANS_AT_ONCE = 512
"""That are looked up together: few enough that what is counted stays in a processor's cache."""


@dataclass(frozen=True)
class Fingerprints:
    """Marks of the training scans that have a role.

    Attributes
    ----------
    columns : int64 (blocks x width,), places of the features in the bundle's list, block after block.
    step : float64 (blocks x width,), what each is rounded to, in its own unit.
    marks : uint8 (scans, blocks), 1 to 255; 0 where a feature is missing.
    fold : int64 (scans,), the fold whose members did not see the scan.
    """

    columns: np.ndarray
    step: np.ndarray
    marks: np.ndarray
    fold: np.ndarray

    def held_out_in(self, x_BC: np.ndarray, salt: str) -> np.ndarray:
        """For each scan the fold in which it was held out, -1 where it is not known.

        Parameters
        ----------
        x_BC : the features at `columns` in their own units, NaN where missing.
        """
        enough = np.array([_hits_needed(whole) for whole in range(self.marks.shape[1] + 1)])
        found = np.full(len(x_BC), -1, dtype=np.int64)
        if not len(self.fold):
            return found
        for begin in range(0, len(x_BC), _SCANS_AT_ONCE):
            rows = slice(begin, begin + _SCANS_AT_ONCE)
            own = marks_of(x_BC[rows], self.step, salt, self.marks.shape[1])
            hits = self._hits(own)
            best = hits.argmax(axis=1)
            known = hits.max(axis=1) >= enough[(own != _NOTHING).sum(axis=1)]
            found[rows] = np.where(known, self.fold[best], -1)
        return found

    def _hits(self, own_BK: np.ndarray) -> np.ndarray:
        """How many blocks each scan has in common with each training scan, uint8 (B, training scans)."""
        hits = np.zeros((len(own_BK), len(self.fold)), dtype=np.uint8)
        same = np.empty(hits.shape, dtype=bool)
        for mine, held in zip(own_BK.T, np.ascontiguousarray(self.marks.T), strict=True):
            np.equal(mine[:, None], held, out=same)
            if not mine.all():
                same &= mine[:, None] != _NOTHING
            hits += same.view(np.uint8)  # no more than `BLOCKS`
        return hits


@lru_cache
def _hits_needed(whole: int) -> int:
    """The fewest blocks, of so many whole ones, that two people hardly ever have in common."""
    numbers = range(1, whole + 1)
    rare = (hits for hits in numbers if comb(whole, hits) * _ACCIDENT**hits < LEAST_CHANCE)
    return next(rare, whole + 1)


def take_fingerprints(
    x_NF: np.ndarray, names: Sequence[str], fold: np.ndarray, salt: str
) -> Fingerprints | None:
    """Fingerprints of the training scans; None where too few features are known for everybody.

    Parameters
    ----------
    x_NF : the bundle's features of all training scans that have the role, NaN where missing.
    names : of the features; those that share their common words are of one kind.
    fold : of each of the scans.
    """
    x = np.asarray(x_NF, dtype=np.float64)
    usable = np.flatnonzero(np.isfinite(x).all(axis=0))
    # A few extreme values widen the SD, and all others would be rounded to the same.
    low, high = np.percentile(x[:, usable], [25, 75], axis=0)
    sd = np.minimum(x[:, usable].std(axis=0), (high - low) / _IQR_OF_NORMAL)
    unique = np.array([len(np.unique(x[:, column])) for column in usable])
    good = (sd > 0) & (unique >= _LEAST_UNIQUE * len(x))
    usable, sd = usable[good], sd[good]
    kinds = _kinds([names[column] for column in usable])
    order = np.argsort(kinds, kind="stable")
    blocks = _blocks(x[:, usable[order]])
    if len(blocks) < _FEWEST_BLOCKS:
        return None
    taken = order[blocks.ravel()]
    columns, step = usable[taken], STEP * sd[taken]
    marks = marks_of(x[:, columns], step, salt, len(blocks))
    return Fingerprints(columns, step, marks, np.asarray(fold, dtype=np.int64))


def _kinds(names: Sequence[str]) -> np.ndarray:
    """What the names have in common: their words that many names have, as `lh` and `thickness`."""
    words = [re.findall(r"[A-Za-z0-9]+", name) for name in names]
    often = Counter(word for own in words for word in set(own))
    least = max(WIDTH, _COMMON * len(names))
    return np.array([" ".join(sorted({w for w in own if often[w] >= least})) for own in words], dtype=str)


def _blocks(x_NF: np.ndarray) -> np.ndarray:
    """Places (blocks, width) of neighbours, spread over the table; none that says nearly one thing."""
    places = np.arange(x_NF.shape[1] // WIDTH * WIDTH).reshape(-1, WIDTH)
    places = _spread(places, 4 * BLOCKS)
    # Of ranks (Spearman), for one scan with extreme values makes everything correlate.
    rank = x_NF[:, places.ravel()].argsort(axis=0).argsort(axis=0)
    z = ((rank - rank.mean(axis=0)) / rank.std(axis=0)).reshape(len(rank), len(places), WIDTH)
    correlations = np.einsum("nbi,nbj->bij", z, z) / len(z)
    return _spread(places[np.linalg.det(correlations) >= _LEAST_DETERMINANT], BLOCKS)


def _spread(places: np.ndarray, most: int) -> np.ndarray:
    return places[np.linspace(0, max(len(places) - 1, 0), min(most, len(places))).astype(np.int64)]


def marks_of(x_BC: np.ndarray, step: np.ndarray, salt: str, blocks: int) -> np.ndarray:
    """Short hashes of the blocks of rounded values, uint8 (B, blocks); 0 where a value is missing."""
    width = len(step) // blocks
    known = np.ones((len(x_BC), blocks), dtype=bool)
    mark = np.full(known.shape, int.from_bytes(salt.encode()[:8].ljust(8, b"\0")), dtype=np.uint64)
    for place in range(width):
        rounded = np.floor(x_BC[:, place::width].astype(np.float64) / step[place::width] + 0.5)
        finite = np.isfinite(rounded)
        known &= finite
        words = np.clip(np.where(finite, rounded, 0), -(2.0**62), 2.0**62).astype(np.int64)
        mark = _mixed(mark ^ _mixed(words.view(np.uint64) + np.uint64(place)))
    return np.where(known, mark % np.uint64(_VALUES) + np.uint64(1), np.uint64(_NOTHING)).astype(np.uint8)


def _mixed(word: np.ndarray) -> np.ndarray:
    """Splitmix64 (Steele, Lea and Flood 2014): every input bit changes every output bit."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
