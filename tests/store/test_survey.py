"""The one pass over an image: its checksum, and statistics that do not depend on the machine."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import xxhash

from hpc_brainage.modality import NUMBERS, ScaledIntegers
from hpc_brainage.store.statistics import Statistics
from hpc_brainage.store.survey import BLOCK, checksum, scale_into, survey

# Fewer values than a block, a block, and blocks that end with another number of values.
SIZES = (1, 7, 1000, BLOCK, BLOCK + 1, 2 * BLOCK + 8193)
SCALES = ((1.0, 0.0), (0.1, 0.0), (-0.5, 0.0), (1.0, -1024.0), (-3.7e-3, 12.5), (1e-7, 1e-3))


def integers(numbers: str, size: int, seed: int = 0) -> np.ndarray:
    of = np.iinfo(numbers)
    return np.random.default_rng(seed).integers(of.min, of.max, size, dtype=numbers, endpoint=True)


def assert_is_one_pass(found: Statistics, values: np.ndarray) -> None:
    """Against everything at once in float64; sums may be rounded in another order."""
    largest = np.abs(values).max()
    assert found.count == values.size
    np.testing.assert_allclose(found.mean, values.mean(), rtol=1e-12, atol=1e-13 * largest)
    m2 = ((values - values.mean()) ** 2).sum()
    np.testing.assert_allclose(found.m2, m2, rtol=1e-12, atol=1e-24 * values.size * largest**2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("center", "spread"), [(0.0, 1.0), (3.0, 2.0), (1e6, 1.0), (-5e-3, 1e-4)])
def test_statistics_of_an_image_are_those_of_one_pass_in_float64(
    size: int, center: float, spread: float
) -> None:
    image = np.random.default_rng(size).normal(center, spread, size).astype(np.float32)
    _, found = survey(image)
    assert_is_one_pass(found, image.astype(np.float64))
    assert (found.min, found.max) == (image.min(), image.max())


@pytest.mark.parametrize("size", [1000, BLOCK + 1])
@pytest.mark.parametrize(("slope", "offset"), SCALES)
@pytest.mark.parametrize("numbers", [numbers for numbers in NUMBERS if numbers != "float32"])
def test_statistics_of_integers_are_those_of_their_values(
    numbers: str, slope: float, offset: float, size: int
) -> None:
    image = integers(numbers, size)
    _, found = survey(image, slope, offset)
    factor, plus = float(np.float32(slope)), float(np.float32(offset))
    assert_is_one_pass(found, factor * image.astype(np.float64) + plus)
    values = ScaledIntegers(image, slope, offset).values()
    assert (found.min, found.max) == (values.min(), values.max())
    # The values themselves are rounded to float32, each by half of its last digit at most.
    largest = np.abs(values).max()
    np.testing.assert_allclose(found.mean, values.mean(dtype=np.float64), atol=1e-7 * largest)
    np.testing.assert_allclose(found.m2, values.var(dtype=np.float64) * size, rtol=1e-5)


def test_large_integers_that_differ_little_keep_their_spread() -> None:
    image = (60_000 + np.random.default_rng(0).integers(0, 2, 3 * BLOCK)).astype(np.uint16)
    _, found = survey(image)
    np.testing.assert_allclose(found.m2, image.astype(np.float64).var() * image.size, rtol=1e-12)


@pytest.mark.parametrize("size", [1, BLOCK + 77])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 3e38])
def test_a_constant_image_has_no_spread(value: float, size: int) -> None:
    image = np.full(size, value, np.float32)
    _, found = survey(image)
    assert (found.mean, found.m2) == (image[0], 0.0)
    assert (found.min, found.max) == (image[0], image[0])


def test_a_constant_image_of_integers_has_no_spread() -> None:
    _, found = survey(np.full(BLOCK + 77, -31_000, np.int16), -0.1, 3.0)
    assert found.m2 == 0.0
    assert found.min == found.max == ScaledIntegers(np.array([-31_000], np.int16), -0.1, 3.0).values()[0]


@pytest.mark.parametrize("place", [0, 500, BLOCK + 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_shows_in_the_extremes_wherever_it_is(place: int, value: float) -> None:
    image = np.ones(BLOCK + 9, np.float32)
    image[place] = value
    _, found = survey(image)
    assert not (np.isfinite(found.min) and np.isfinite(found.max))


@pytest.mark.parametrize(("slope", "offset"), [(1e300, 0.0), (-1e38, 0.0), (1.0, 1e39), (1e38, -3e38)])
def test_a_scale_that_float32_does_not_hold_shows_in_the_extremes(slope: float, offset: float) -> None:
    _, found = survey(integers("int16", 100), slope, offset)
    assert not (np.isfinite(found.min) and np.isfinite(found.max))


@pytest.mark.parametrize("size", SIZES)
def test_the_checksum_is_xxh3_of_the_bytes_as_they_lie(size: int) -> None:
    image = np.random.default_rng(0).normal(size=size).astype("<f4")
    assert survey(image)[0] == xxhash.xxh3_128_hexdigest(image.tobytes()) == checksum(image)
    assert len(survey(image)[0]) == 32


def test_the_checksum_of_integers_is_also_of_their_scale() -> None:
    image = integers("int16", 2 * BLOCK + 5)
    found = {survey(image, slope, offset)[0] for slope, offset in SCALES}
    assert len(found) == len(SCALES)
    scale = struct.pack("<dd", 0.1, 7.5)
    assert survey(image, 0.1, 7.5)[0] == xxhash.xxh3_128_hexdigest(image.astype("<i2").tobytes() + scale)


def test_the_checksum_of_features_does_not_depend_on_how_they_lie_in_memory() -> None:
    values = np.random.default_rng(0).normal(size=300).astype(np.float32)
    assert checksum(values) == checksum(values.astype(">f4")) == checksum(np.repeat(values, 2)[::2])


@pytest.mark.parametrize(("slope", "offset"), SCALES)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_scaling_gives_every_value_to_the_last_bit(numbers: str, slope: float, offset: float) -> None:
    image = np.zeros(2000, numbers) if numbers == "float32" else integers(numbers, 2000)
    image[:10] = 0
    out = np.empty(2000, np.float32)
    scale_into(image, slope, offset, out)
    expected = ScaledIntegers(image, slope, offset).values()
    np.testing.assert_array_equal(out.view(np.int32), expected.view(np.int32))


def test_many_images_together_have_the_statistics_of_one_pass() -> None:
    images = np.random.default_rng(1).normal(3, 2, (4, 5, 6, 7)).astype(np.float32)
    merged = Statistics.nothing()
    for image in images:
        merged = merged.merge(survey(image)[1])
    assert merged.count.shape == ()
    assert_is_one_pass(merged, images.astype(np.float64))


def test_the_result_does_not_depend_on_how_many_threads_blas_may_use_elsewhere() -> None:
    program = (
        "import numpy as np; from hpc_brainage.store.survey import survey\n"
        "from threadpoolctl import threadpool_limits\n"
        "image = np.random.default_rng(0).normal(3, 2, (61, 73, 121)).astype(np.float32)\n"
        "with threadpool_limits(1, user_api='blas'):  # as a conversion has it\n"
        "  for found in (survey(image), survey((image * 100).astype(np.int16), 0.01)):\n"
        "    print(found[0], found[1].m2.item().hex(), found[1].mean.item().hex())"
    )
    found = set()
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1
