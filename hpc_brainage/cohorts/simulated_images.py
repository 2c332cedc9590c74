"""Schematic brains on a coarse grid, whose tissue tells their age."""

from __future__ import annotations

import numpy as np

_FIELD_OF_VIEW_MM = np.array([182.0, 218.0, 182.0])  # of the MNI152 grid
_MNI_CORNER_MM = np.array([90.0, -126.0, -72.0])  # centre of its first 1 mm voxel


def mni_affine(grid: tuple[int, int, int]) -> np.ndarray:
    """Voxel to MNI millimetre for a grid over the MNI152 field of view; x runs from right to left."""
    voxel = _FIELD_OF_VIEW_MM / grid
    direction = np.array([-1.0, 1.0, 1.0])
    affine = np.diag([*(direction * voxel), 1.0])
    affine[:3, 3] = _MNI_CORNER_MM + direction * (voxel - 1.0) / 2
    return affine


def brain_images(
    grid: tuple[int, int, int], brain_age: float, head: float
) -> tuple[np.ndarray, np.ndarray]:
    """A schematic brain: an ellipsoid with a cortical ribbon around white matter and two ventricles.

    With age the grey matter thins and fades and the ventricles widen.

    Parameters
    ----------
    head : linear size relative to an average head.

    Returns
    -------
    grey-matter density and T1-weighted intensity, float32, shape `grid`; 0 outside the brain.
    """
    centre = np.array([0.0, -18.0, 10.0])
    voxels = np.stack(np.meshgrid(*(np.arange(size) for size in grid), indexing="ij"), axis=-1)
    place = voxels @ mni_affine(grid)[:3, :3].T + mni_affine(grid)[:3, 3] - centre  # mm
    radius = np.linalg.norm(place / (np.array([70.0, 88.0, 62.0]) * head), axis=-1)
    life = np.clip((brain_age - 6.0) / 82.0, 0.0, 1.2)

    def inside(distance: np.ndarray, edge: float, blur: float = 0.06) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(np.clip((distance - edge) / blur, -50, 50)))

    brain = inside(radius, 1.0)
    white = inside(radius, 0.72 + 0.05 * life)
    lateral = np.stack([np.abs(place[..., 0]) - 16.0, place[..., 1], place[..., 2]], axis=-1)
    ventricle = inside(
        np.linalg.norm(lateral / (np.array([9.0, 32.0, 14.0]) * (0.9 + 0.7 * life)), axis=-1), 1.0, 0.2
    )
    grey = np.clip(brain - white, 0, 1) * (0.95 - 0.3 * life)
    t1 = 60.0 * grey + 110.0 * np.clip(white - ventricle, 0, 1) + 15.0 * ventricle * brain
    grey[brain < 0.05] = 0.0
    t1[brain < 0.05] = 0.0
    return grey.astype(np.float32), t1.astype(np.float32)
