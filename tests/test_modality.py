"""What one kind of measurement is, and which descriptions of one are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_brainage.errors import UsageError
from hpc_brainage.modality import Modality, check_role, modality_name

AFFINE = ((2.0, 0.0, 0.0, -90.0), (0.0, 2.0, 0.0, -126.0), (0.0, 0.0, 2.0, -72.0), (0.0, 0.0, 0.0, 1.0))
TABLE = Modality("smri", "desikan", "features", (2,), ("lh thickness", "rh thickness"), ("mm", "mm"))
VOLUME = Modality("smri", "vbm", "volume", (4, 5, 6), units=("",), affine=AFFINE)
SURFACE = Modality("smri", "xhemi", "surface", (2, 9), ("thickness", "area"), ("mm", "mm2"))


@pytest.mark.parametrize("modality", [TABLE, VOLUME, SURFACE], ids=lambda m: m.kind)
def test_a_description_reads_back_as_the_same_modality(modality: Modality) -> None:
    record = json.loads(json.dumps(modality.describe()))
    assert Modality.from_record(record) == modality


def test_a_modality_is_spoken_of_by_role_and_name() -> None:
    assert (TABLE.key, TABLE.array_name) == ("smri/desikan", "smri_desikan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "mri"}, "unknown role"),
        ({"name": "Desikan"}, "not usable"),
        ({"name": "../desikan"}, "not usable"),
        ({"name": ""}, "not usable"),
        ({"shape": (1, 2)}, "features of shape"),
        ({"shape": (3,)}, "2 names for 3"),
        ({"units": ("mm",)}, "1 units for 2"),
        ({"features": ("lh thickness", "lh thickness")}, "same name"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Modality(
            **(
                {k: getattr(TABLE, k) for k in ("role", "name", "kind", "shape", "features", "units")}
                | change
            )
        )


def test_a_misspelt_role_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'fmri'"):
        check_role("fMRI")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("FC-111 (Fisher z)", "fc_111_fisher_z"),
        ("desikan", "desikan"),
        ("__x__", "x"),
        ("é", "features"),
        ("", "features"),
    ],
)
def test_a_name_is_made_from_what_a_file_is_called(text: str, name: str) -> None:
    assert modality_name(text) == name


@given(st.text(max_size=30))
def test_whatever_a_file_is_called_its_modality_s_name_is_usable(text: str) -> None:
    name = modality_name(text)
    assert Modality("fmri", name, "features", (1,), ("x",), ("",)).name == name
    assert modality_name(name) == name
