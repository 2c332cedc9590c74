"""What values an image may have, as far as its name tells, and the checks that cost next to nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import SHAPE, voxels, write_image

from hpc_brainage.cohorts.image_check import (
    INTENSITY,
    MODULATED,
    PROBABILITY,
    Plausible,
    check_image,
    plausible_values,
)
from hpc_brainage.cohorts.nifti import load_volume
from hpc_brainage.errors import ScanRefused
from hpc_brainage.modality import ScaledIntegers

HERE = Path("scan.nii")


@pytest.mark.parametrize(
    ("name", "plausible"),
    [
        ("sub-01_space-MNI152NLin2009cAsym_label-GM_probseg.nii.gz", PROBABILITY),
        ("sub-01_label-GM_desc-modulated_probseg.nii.gz", MODULATED),
        ("sub-01_desc-preproc_T1w.nii.gz", INTENSITY),
        ("p1sub-01_T1w.nii", PROBABILITY),
        ("rc2sub-01_T1w.nii", PROBABILITY),
        ("wp1IXI002.nii", PROBABILITY),
        ("swc3sub-01.nii", PROBABILITY),
        ("mwp1sub-01_T1w.nii", MODULATED),
        ("m0wp2IXI002-Guys.nii.gz", MODULATED),
        ("s8mwc1sub-01.nii", MODULATED),
        ("smwp1001.nii", MODULATED),
        # names that only look like it: p1 and wp12 may be people
        ("p1_T1w.nii.gz", INTENSITY),
        ("p10.nii", INTENSITY),
        ("wp12_T1w.nii", INTENSITY),
        ("c1.mgz", INTENSITY),
        ("wmsub-01.nii", INTENSITY),
        ("sub-mwp1_T1w.nii", INTENSITY),
        ("norm.mgz", INTENSITY),
    ],
)
def test_a_name_tells_what_values_are_plausible(name: str, plausible: Plausible) -> None:
    assert plausible_values(name) is plausible


@pytest.mark.parametrize(
    ("name", "highest", "said"),
    [
        ("sub-01_label-GM_probseg.nii", 1.0, None),
        ("sub-01_label-GM_probseg.nii", 1.02, "from 0 to 1.02, tissue probabilities from -0.01 to 1.01"),
        ("sub-01_label-GM_probseg.nii", 255.0, "from 0 to 255, tissue probabilities from -0.01 to 1.01"),
        ("mwp1sub-01.nii", 3.5, None),
        ("mwp1sub-01.nii", 255.0, "from 0 to 255, modulated tissue maps from -0.01 to 20"),
        ("sub-01_T1w.nii", 4095.0, None),
        ("sub-01_T1w.nii", 1e9, "from 0 to 1e+09, intensities from -1e+07 to 1e+07"),
    ],
)
def test_a_volume_of_implausible_values_is_refused(
    tmp_path: Path, name: str, highest: float, said: str | None
) -> None:
    array = (voxels() % 100).astype(np.float32)
    path = write_image(tmp_path / name, array / array.max() * np.float32(highest))
    if said is None:
        assert load_volume(path).shape == SHAPE
        return
    with pytest.raises(ScanRefused) as refused:
        load_volume(path)
    assert said in refused.value.what
    assert "scale" in str(refused.value.hint)


def test_probabilities_below_zero_are_refused() -> None:
    values = np.array([-0.02, 0.5, 1.0], np.float32)
    with pytest.raises(ScanRefused, match=r"run from -0\.02 to 1"):
        check_image(values, HERE, PROBABILITY)
    with pytest.raises(ScanRefused, match="modulated"):
        check_image(values, HERE, MODULATED)


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=2, max_size=30),
    slope=st.floats(allow_nan=False, allow_infinity=False, width=32).filter(bool),
    offset=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_integers_are_judged_as_their_values_are(numbers: list[int], slope: float, offset: float) -> None:
    scaled = ScaledIntegers(np.array(numbers, np.int16), slope, offset)
    with np.errstate(over="ignore", invalid="ignore"):
        values = scaled.values()
    verdicts = []
    for image in (values, scaled):
        try:
            check_image(image, HERE, INTENSITY)
            verdicts.append("")
        except ScanRefused as refused:
            verdicts.append(refused.what)
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_found_anywhere(bad: float) -> None:
    for place in range(64):
        image = np.arange(64, dtype=np.float32)
        image[place] = bad
        with pytest.raises(ScanRefused, match="1 of 64 values are NaN or infinite"):
            check_image(image, HERE)
