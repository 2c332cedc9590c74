"""One pass over an image: its checksum, and the sums that its statistics are made of.

An image is larger than a processor's cache, and passing over it is what costs time. So it is gone through
once, in blocks that stay in the cache while they are hashed and summed.
"""

from __future__ import annotations

import struct
import threading

import numpy as np
import xxhash

from hpc_brainage.store.statistics import Statistics

BLOCK = 1 << 19  # smaller ones stay in a faster cache, but threads then wait for one another
RUN = 1 << 12  # so many of one and the same number are summed up as one
_SAMPLE = 997  # every so many values give a first guess of the mean; sums are of differences from it
_scratch = threading.local()


def survey(numbers: np.ndarray, slope: float = 1.0, offset: float = 0.0) -> tuple[str, Statistics]:
    """Checksum and statistics of one image.

    The same numbers in the same order give the same result to the last bit, as long as BLAS keeps to one
    thread, as it does in a conversion: more would add up in another order.

    Parameters
    ----------
    numbers : float32 or integers, C-contiguous, in the order in which a store keeps them.
    slope, offset : of integers: a value is slope times the number, plus offset.

    Returns
    -------
    The checksum: XXH3-128 of the little-endian numbers as they are kept, followed, if they are integers, by
    the slope and the offset as little-endian float64; 32 hexadecimal digits. And the statistics of the
    values; of a float32 image with a NaN or an infinite value, minimum or maximum is so.
    """
    flat = numbers.reshape(-1)
    integers = flat.dtype.kind in "iu"
    guess = 0.0 if integers else _guess(flat)
    wide = _block()
    digest = xxhash.xxh3_128()
    total = squares = 0.0
    lows, highs = [], []
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        digest.update(block.view(np.uint8).data)
        length = block.size // RUN * RUN
        runs, rest = block[:length].reshape(-1, RUN), block[length:]
        low, high = runs.min(axis=1), runs.max(axis=1)
        lows += [low, rest]
        highs += [high, rest]
        same = low == high
        if same.any():  # what is around a head costs no more than a look
            numbers_once = low[same] - guess
            total += RUN * float(numbers_once.sum())
            squares += RUN * float(np.dot(numbers_once, numbers_once))
            runs = runs[~same]
        for varied in (runs.reshape(-1), rest):
            differences = wide[: varied.size]
            np.copyto(differences, varied)
            if not integers:  # of 8 or 16 bits, whose sums of squares are exact as they are
                differences -= guess
            total += float(np.einsum("i->", differences))
            squares += float(np.dot(differences, differences))
    count = flat.size
    ends = np.array([np.concatenate(lows).min(), np.concatenate(highs).max()])  # NaN if there is one
    mean = total / count
    m2 = max(squares - count * mean * mean, 0.0)
    if integers:
        digest.update(struct.pack("<dd", slope, offset))
        m2 = (count * int(squares) - int(total) ** 2) / count  # large numbers that differ little
        scaled = np.empty(2, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite
            factor, plus = float(np.float32(slope)), float(np.float32(offset))  # as a value is made of them
            scale_into(ends, slope, offset, scaled)  # keeps the order of the numbers, or turns it around
        mean, m2 = factor * mean + plus, factor * factor * m2
        ends = np.sort(scaled)
    statistics = Statistics(
        np.array(count, np.int64),
        np.array(guess + mean),
        np.array(m2),
        np.array(ends[0], np.float64),
        np.array(ends[1], np.float64),
    )
    return digest.hexdigest(), statistics


def checksum(values: np.ndarray) -> str:
    """The checksum of one scan of features: XXH3-128 of its little-endian float32 values."""
    return xxhash.xxh3_128(np.ascontiguousarray(values, dtype="<f4").data).hexdigest()


def scale_into(numbers: np.ndarray, slope: float, offset: float, out: np.ndarray) -> None:
    """Write slope times `numbers`, plus offset, to the float32 array `out`."""
    if slope != 1.0:
        np.multiply(numbers, np.float32(slope), out=out, dtype=np.float32, casting="unsafe")
    else:
        np.copyto(out, numbers, casting="unsafe")
    if offset != 0.0 or slope < 0.0:  # 0 times a negative slope is -0, plus 0 it is 0
        out += np.float32(offset)


def _guess(flat: np.ndarray) -> float:
    guess = float(flat[::_SAMPLE].mean(dtype=np.float64))
    return guess if np.isfinite(guess) else 0.0


def _block() -> np.ndarray:
    """Room for one block, each thread's own."""
    if not hasattr(_scratch, "wide"):
        _scratch.wide = np.empty(BLOCK, np.float64)
    block: np.ndarray = _scratch.wide
    return block
