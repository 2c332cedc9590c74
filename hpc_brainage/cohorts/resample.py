"""Images that lie in one space but on other grids, brought onto the grid of a template.

That moves voxels, not brains: an image that was never registered to the template's space is not registered
by it. Spline interpolation as nilearn does it; its MNI152 template comes with nilearn, so nothing is
downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.image_check import check_image
from hpc_brainage.cohorts.nifti import load_volume, volume_header
from hpc_brainage.cohorts.nifti_header import VolumeHeader, by
from hpc_brainage.errors import ScanRefused, UsageError, nearest
from hpc_brainage.files import sha256_of

INTERPOLATION = "continuous"  # nilearn's word for splines of third order

BUNDLED_MM = {"mni152-1mm": 1, "mni152-2mm": 2}
_HERE = "resampled_to"


@dataclass(frozen=True, eq=False)
class Template:
    """A grid with a name; of the template's own voxels nothing is used."""

    name: str
    grid: VolumeHeader

    def record(self) -> dict[str, Any]:
        """What a recipe keeps of it: enough to tell whether two cohorts were resampled in the same way."""
        grid = {"shape": list(self.grid.shape), "affine": self.grid.affine.tolist()}
        return {
            _HERE: {
                "template": self.name,
                "grid_sha256": sha256_of(grid),
                "interpolation": INTERPOLATION,
                "nilearn": version("nilearn"),
            }
        }


def open_template(said: str) -> Template:
    """The template that `--resample` names: "mni152-1mm", "mni152-2mm", or the path of an image.

    The grid is turned to RAS order, as all volumes are.

    Raises
    ------
    UsageError : there is no such template, or it cannot be read.
    """
    if said in BUNDLED_MM:
        from nilearn.datasets import load_mni152_template

        image = load_mni152_template(resolution=BUNDLED_MM[said])
        affine = np.asarray(image.affine, dtype=np.float64)
        return Template(said, VolumeHeader(image.shape, affine, "RAS", "float32"))
    path = Path(said).expanduser()
    if not path.exists():
        raise UsageError(
            "there is no such template",
            where=f"--resample {said}",
            expected=f"the path of a NIfTI or MGH image, or {' or '.join(BUNDLED_MM)}",
            hint=nearest(said, BUNDLED_MM),
        )
    try:
        return Template(path.name, volume_header(path))
    except ScanRefused as problem:
        raise UsageError(
            f"the template cannot be used: {problem.what}", where=f"--resample {said}", hint=problem.hint
        ) from None


def load_resampled(path: Path, template: Template) -> np.ndarray:
    """Read a volume of any grid and give its values on the grid of the template.

    What the image does not cover is 0. No value lies beyond the lowest and the highest of the image and 0.

    Returns
    -------
    float32 array (x, y, z), Fortran order.

    Raises
    ------
    ScanRefused : as `load_volume`; or nothing of the image lies within the template.
    """
    import nibabel
    from nilearn.image import resample_img

    header = volume_header(path)
    volume = load_volume(path, header.shape, header.affine)
    moved = resample_img(
        nibabel.Nifti1Image(volume, header.affine),
        template.grid.affine,
        template.grid.shape,
        interpolation=INTERPOLATION,
        clip=True,
        copy_header=True,
        force_resample=True,
    )
    values = np.asfortranarray(moved.get_fdata(dtype=np.float32))
    if not values.any():
        raise ScanRefused(
            f"nothing of it lies within the {by(template.grid.shape)} voxels of {template.name}",
            where=path,
            hint="only images that are registered to the space of the template can be resampled to it",
        )
    check_image(values, path)
    return values


def check_resample_heard(said: str | None, cohort: Cohort) -> None:
    """Raise `UsageError` if `--resample` was said and no source of a cohort has images to resample."""
    recipes = [cohort.recipe, *cohort.recipe.get("added", [])]
    if said is not None and not any(_HERE in recipe for recipe in recipes):
        raise UsageError(
            "--resample would not be heard: there are no NIfTI or MGH images here",
            where=f"--resample {said}",
            hint="leave it out",
        )
