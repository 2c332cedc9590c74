"""Recognising a training scan by its features, whoever converted it and under whatever name.

The checksum of a measurement in a store is of its very bytes: another conversion of the same scan, with
another selection or order of features or with a digit less, has another checksum. A fingerprint is made of
some of the model's features, found by name and rounded, in several blocks. Each block is hashed, and a scan
is known if at least two of its blocks are those of one training scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCKS, WIDTH = 8, 8
"""At most so many blocks of so many features; fewer where a model takes few features."""
_FEWEST_BLOCKS, _NARROWEST = 3, 6
STEP = 0.1
"""Values are rounded to this share of the feature's standard deviation among the training people."""
_LEAST_UNIQUE = 0.1
_NOTHING = 0


@dataclass(frozen=True)
class Fingerprints:
    """Marks of the training scans that have a role.

    Attributes
    ----------
    columns : int64 (blocks x width,), places of the features in the bundle's list.
    step : float64 (blocks x width,), what each is rounded to, in its own unit.
    marks : int64 (scans, blocks).
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
        own = marks_of(x_BC, self.step, salt, self.marks.shape[1])
        known = np.full(own.shape, -1, dtype=np.int64)
        for block in range(own.shape[1]):
            order = np.argsort(self.marks[:, block], kind="stable")
            held = self.marks[order, block]
            at = np.minimum(np.searchsorted(held, own[:, block]), len(held) - 1)
            hit = (held[at] == own[:, block]) & (own[:, block] != _NOTHING)
            known[hit, block] = order[at[hit]]
        known.sort(axis=1)
        same = (known[:, 1:] == known[:, :-1]) & (known[:, 1:] >= 0)
        fold = np.full(len(own), -1, dtype=np.int64)
        found = same.any(axis=1)
        fold[found] = self.fold[known[found, same[found].argmax(axis=1)]]
        return fold


def take_fingerprints(x_NF: np.ndarray, fold: np.ndarray, salt: str) -> Fingerprints | None:
    """Fingerprints of the training scans; None where too few features are known for everybody.

    Parameters
    ----------
    x_NF : the bundle's features of all training scans that have the role, NaN where missing.
    fold : of each of them.
    """
    x = np.asarray(x_NF, dtype=np.float64)
    usable = np.flatnonzero(np.isfinite(x).all(axis=0))
    sd = x[:, usable].std(axis=0)
    unique = np.array([len(np.unique(x[:, column])) for column in usable])
    usable = usable[(sd > 0) & (unique >= _LEAST_UNIQUE * len(x))]
    blocks = min(BLOCKS, len(usable) // _NARROWEST)
    if blocks < _FEWEST_BLOCKS:
        return None
    width = min(WIDTH, len(usable) // blocks)
    # Neighbours are alike, so the features of a block lie far apart.
    columns = usable[np.linspace(0, len(usable) - 1, blocks * width).astype(np.int64)]
    columns = columns.reshape(width, blocks).T.reshape(-1)
    step = STEP * x[:, columns].std(axis=0)
    marks = marks_of(x[:, columns], step, salt, blocks)
    return Fingerprints(columns, step, marks, np.asarray(fold, dtype=np.int64))


def marks_of(x_BC: np.ndarray, step: np.ndarray, salt: str, blocks: int) -> np.ndarray:
    """Hashes of the blocks of rounded values, int64 (B, blocks); 0 where a value of a block is missing."""
    rounded = np.floor(x_BC.astype(np.float64) / step + 0.5).reshape(len(x_BC), blocks, -1)
    known = np.isfinite(rounded).all(axis=2)
    words = np.clip(np.where(known[:, :, None], rounded, 0), -(2.0**62), 2.0**62)
    numbers = words.astype(np.int64).view(np.uint64)
    mark = np.full(known.shape, int.from_bytes(salt.encode()[:8].ljust(8, b"\0")), dtype=np.uint64)
    for place in range(numbers.shape[2]):
        mark = _mixed(mark ^ _mixed(numbers[:, :, place] + np.uint64(place)))
    mark = np.maximum(mark, np.uint64(1))
    return np.where(known, mark, np.uint64(_NOTHING)).view(np.int64)


def _mixed(word: np.ndarray) -> np.ndarray:
    """Splitmix64 (Steele, Lea and Flood 2014): every input bit changes every output bit."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
