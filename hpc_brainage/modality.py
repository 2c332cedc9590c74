"""What one kind of measurement is: its role, its kind, and the names and units of its numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hpc_brainage.errors import UsageError, nearest

Role = Literal["smri", "fmri"]
Kind = Literal["features", "volume", "surface"]
ROLES: tuple[str, ...] = get_args(Role)
KINDS: tuple[str, ...] = get_args(Kind)

Axes = Literal["xyz", "zyx"]
AXES: tuple[str, ...] = get_args(Axes)
NUMBERS = ("float32", "uint8", "int8", "uint16", "int16")

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True)
class Modality:
    """One array of a cohort.

    Parameters
    ----------
    role : "smri" (structural) or "fmri" (functional): the branch of the model that it feeds.
    name : which of that role, e.g. "desikan" or "fc"; lower case letters, digits and underscores.
    kind : "features" (a named vector), "volume" (a grid) or "surface" (channels x vertices).
    shape : of one scan: (features,), (x, y, z) or (channels, vertices).
    features : names in order for "features", channel names for "surface", empty for "volume".
    units : one for each feature or channel ("mm", "mm2", "" where unknown), one for a volume.
    affine : voxel to millimetre, 4 x 4 row by row, for a volume.
    """

    role: Role
    name: str
    kind: Kind
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    affine: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        check_role(self.role)
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                "a modality's name is not usable",
                where=f"{self.role}/{self.name}",
                expected="lower case letters, digits and underscores",
            )
        rank = {"features": 1, "volume": 3, "surface": 2}[self.kind]
        if len(self.shape) != rank:
            raise UsageError(f"{self.kind} of shape {self.shape}", where=self.key, expected=f"{rank} axes")
        named = {"features": self.shape[0], "surface": self.shape[0], "volume": 0}[self.kind]
        if len(self.features) != named:
            raise UsageError(f"{len(self.features)} names for {named} {self.kind}", where=self.key)
        if len(self.units) != max(named, 1):
            raise UsageError(f"{len(self.units)} units for {max(named, 1)} columns", where=self.key)
        if len(set(self.features)) != len(self.features):
            raise UsageError("two features have the same name", where=self.key)

    @property
    def key(self) -> str:
        """`role/name`, how the command line and the store speak of it."""
        return f"{self.role}/{self.name}"

    @property
    def array_name(self) -> str:
        """The name of its array in a store."""
        return f"{self.role}_{self.name}"

    def describe(self) -> dict[str, Any]:
        """A JSON-able record; `from_record` reads it back."""
        return {
            "role": self.role,
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "features": list(self.features),
            "units": list(self.units),
            "affine": None if self.affine is None else [list(row) for row in self.affine],
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Modality:
        affine = record["affine"]
        return cls(
            role=record["role"],
            name=record["name"],
            kind=record["kind"],
            shape=tuple(record["shape"]),
            features=tuple(record["features"]),
            units=tuple(record["units"]),
            affine=None if affine is None else tuple(tuple(row) for row in affine),
        )


@dataclass(frozen=True)
class Stored:
    """How the numbers of a modality lie on disk; what is read back is float32 (x, y, z) in any case.

    Parameters
    ----------
    numbers : "float32", or the integers ("int16", ...) that the images themselves are made of: each scan
        then has a slope and an offset of its own.
    axes : in which order a volume's voxels follow one another. "xyz" is C order; "zyx" is the order of
        NIfTI and MGH files, whose first axis is the fastest: so no voxel has to be moved.
    """

    numbers: str = "float32"
    axes: Axes = "xyz"

    def __post_init__(self) -> None:
        if self.numbers not in NUMBERS or self.axes not in AXES:
            raise UsageError(f"numbers kept as {self.numbers} in the order {self.axes}")

    @property
    def dtype(self) -> np.dtype:
        """Little-endian, as on disk."""
        return np.dtype(self.numbers).newbyteorder("<")


@dataclass(frozen=True, eq=False)
class ScaledIntegers:
    """A volume as its file holds it: a voxel's value is slope times the integer, plus offset, in float32.

    Parameters
    ----------
    integers : shape (x, y, z), in whatever memory order is at hand.
    slope, offset : finite; the slope is not 0.
    """

    integers: np.ndarray
    slope: float = 1.0
    offset: float = 0.0

    def values(self) -> np.ndarray:
        """The float32 volume (x, y, z)."""
        if self.slope == 1.0:
            values: np.ndarray = self.integers.astype(np.float32)
        else:
            values = np.multiply(self.integers, np.float32(self.slope), dtype=np.float32)
        if self.offset != 0.0 or self.slope < 0.0:  # 0 times a negative slope is -0, plus 0 it is 0
            values += np.float32(self.offset)
        return values


def check_role(role: str) -> None:
    if role not in ROLES:
        raise UsageError(
            "a modality has an unknown role",
            where=role,
            expected="smri (structural) or fmri (functional)",
            hint=nearest(role, ROLES),
        )


def modality_name(text: str) -> str:
    """A usable modality name made from a file's or a table's name."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name or "features"
