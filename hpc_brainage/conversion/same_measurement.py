"""Whether what a source has measured is what a store holds under the same name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_brainage.errors import StoreError
from hpc_brainage.modality import Modality

_SAME_AFFINE = 1e-3  # millimetres


def feature_places(ours: Modality, theirs: Modality, *, of: str, where: Path | str) -> np.ndarray | None:
    """Where a store's features stand among those of a source, which may have another order.

    Parameters
    ----------
    ours, theirs : of the store and of the source.
    of, where : what messages call the source, as in "the added scans", and where the store is.

    Returns
    -------
    Shape (features,), int; None for images, which then have the same grid.

    Raises
    ------
    StoreError : the two are not the same measurement: another kind, grid, place in space, unit, or set of
        features.
    """

    def unlike(what: str) -> StoreError:
        return StoreError(
            f"{ours.key} {what}",
            where=where,
            expected="the same measurement as in the store",
            hint="convert these scans into a store of their own",
        )

    if ours.kind != theirs.kind:
        raise unlike(f"is {ours.kind} in the store, and {theirs.kind} in {of}")
    if ours.kind == "volume":
        if ours.shape != theirs.shape:
            raise unlike(f"has grid {ours.shape} in the store, and {theirs.shape} in {of}")
        here, there = (np.eye(4) if m.affine is None else np.array(m.affine) for m in (ours, theirs))
        if not np.allclose(here, there, atol=_SAME_AFFINE):
            raise unlike(f"lies elsewhere in space in {of} than in the store")
        return None
    if ours.kind == "surface":
        if (ours.shape, ours.features) != (theirs.shape, theirs.features):
            raise unlike(f"has other channels or vertices in {of} than in the store")
        return None
    place = {name: index for index, name in enumerate(theirs.features)}
    missing = [name for name in ours.features if name not in place]
    further = [name for name in theirs.features if name not in set(ours.features)]
    if missing or further:
        raise unlike(
            f"lacks {len(missing)} features of the store ({', '.join(missing[:3]) or 'none'}) in {of}, and "
            f"has {len(further)} others ({', '.join(further[:3]) or 'none'})"
        )
    units = [theirs.units[place[name]] for name in ours.features]
    for name, unit, other in zip(ours.features, ours.units, units, strict=True):
        if unit and other and unit != other:
            raise unlike(f"{name} is in {unit} in the store, and in {other} in {of}")
    return np.array([place[name] for name in ours.features])
