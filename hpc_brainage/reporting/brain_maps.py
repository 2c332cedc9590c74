"""Importances on a brain: one value for each region of an atlas, or one for each voxel.

No atlas comes with this package or is downloaded: nilearn brings a template brain to draw on, but none of
the parcellations that features are usually named after. Whoever has the atlas that the features were
made with (FreeSurfer's `aparc+aseg` in MNI space, Harvard-Oxford, AAL, CC200, Schaefer, ...) names its
image; without one there is a bar chart.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.atlas import Atlas
from hpc_brainage.cohorts.nifti import volume_header
from hpc_brainage.errors import UsageError
from hpc_brainage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from nibabel.nifti1 import Nifti1Image

Affine = np.ndarray | tuple[tuple[float, ...], ...]

_DPI = 150
_CUTS = 8


@dataclass(frozen=True)
class RegionMap:
    """An image of one value for each region.

    Attributes
    ----------
    image : on the grid of the atlas, float32; 0 outside the regions that have a value.
    drawn, unmatched : names that the atlas has, and names that it lacks.
    """

    image: Nifti1Image
    drawn: tuple[str, ...]
    unmatched: tuple[str, ...]


def importance_figures(
    regions: pd.DataFrame,
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]],
    folder: Path,
    *,
    atlases: Mapping[str, Path],
    affines: Mapping[str, Affine],
) -> list[Path]:
    """Draw what `Importance` holds: for each modality a bar chart, and a map where there can be one.

    Parameters
    ----------
    regions, maps : as `Importance` has them.
    folder : where the PNG files go: `<role>_regions.png`, `<role>_map.png`, `<role>_signed.png`.
    atlases : by role, an image of the regions; a role without one gets no map.
    affines : by role, of each volume in `maps`, voxel to millimetre; maps are drawn as if in MNI space.

    Raises
    ------
    UsageError : an atlas cannot be used or has none of the regions, or a volume has no affine.
    """
    drawn = []
    for role in dict.fromkeys(regions["role"].astype(str)):
        table = regions[regions["role"] == role]
        title = f"{role}: mean absolute contribution, years"
        drawn.append(bar_chart(table, folder / f"{role}_regions.png", title))
        if role in atlases:
            values = dict(zip(table["region"], table["mean_abs"], strict=True))
            found = region_map(values, atlases[role])
            if found.unmatched:
                title += f" ({len(found.drawn)} of {len(values)} regions are in the atlas)"
            drawn.append(draw_map(found.image, folder / f"{role}_map.png", title))
    for role, (signed, absolute) in maps.items():
        if role not in affines:
            raise UsageError(
                "a volume without an affine cannot be drawn on a brain",
                where=role,
                expected="a place in space",
            )
        for name, what, years in (("signed", "mean", signed), ("map", "mean absolute", absolute)):
            image, title = voxel_map(years, affines[role]), f"{role}: {what} contribution, years"
            drawn.append(draw_map(image, folder / f"{role}_{name}.png", title))
    return drawn


def region_map(values: Mapping[str, float], atlas: Path) -> RegionMap:
    """Put the value of each region where an atlas says that the region is.

    A name finds its region by the atlas's table of names, whatever signs stand between the words and
    whether or not it begins with FreeSurfer's `ctx` (`lh_insula` finds `ctx-lh-insula`), or by the number
    of the label (`2001` or `roi_2001`).

    Parameters
    ----------
    values : by name of the region, as in `Importance.regions`.
    atlas : an image of labels, with a table of their names beside it; see `cohorts.atlas.Atlas`.

    Raises
    ------
    UsageError : it is no image of labels, or it has none of the regions.
    """
    known = Atlas(atlas)
    places: dict[str, set[int]] = {}
    for place, (label, region) in enumerate(zip(known.labels, known.regions, strict=True), start=1):
        for name in {_key(region), str(label), f"roi{label}"}:
            places.setdefault(name, set()).add(place)
    level = np.zeros(len(known.labels) + 1, dtype=np.float32)
    drawn, unmatched = [], []
    for name, value in values.items():
        found = places.get(_key(name), set())
        if len(found) == 1:
            level[next(iter(found))] = value
            drawn.append(name)
        else:
            unmatched.append(name)
    if not drawn:
        raise UsageError(
            "the atlas has none of the regions",
            where=atlas,
            expected=f"regions such as {', '.join(list(values)[:3])}",
            hint=f"name the atlas of the features; this one has {', '.join(known.regions[:3])}, ...",
        )
    header = volume_header(atlas)
    on_grid = known.on_grid(header.shape, header.affine)
    return RegionMap(_image(level[on_grid], header.affine), tuple(drawn), tuple(unmatched))


def voxel_map(years_XYZ: np.ndarray, affine: Affine) -> Nifti1Image:
    """An attribution map of a volume as an image; `affine` is that of the modality, voxel to millimetre."""
    return _image(years_XYZ, np.asarray(affine, dtype=np.float64))


def draw_map(image: Nifti1Image, path: Path, title: str) -> Path:
    """Draw an image in MNI space on nilearn's template, in axial slices, and write it as PNG.

    A map with both signs has colours that are symmetric about 0.
    """
    return _write_bytes(path, _map_png(image, title))


def contribution_maps(
    regions: pd.DataFrame, atlases: Mapping[str, Path], most: int = 4
) -> tuple[tuple[str, bytes], ...]:
    """Maps of what regions contribute to the predictions of groups, as captions and PNG files.

    Parameters
    ----------
    regions : `role`, `region`, `group` ("all" is everybody) and `mean_contribution_years`.
    atlases : by role, an image of the regions.
    most : groups that are drawn; everybody only where there are no others.

    Raises
    ------
    UsageError : an atlas is for a role that is not there, cannot be used, or has none of the regions.
    """
    drawn = []
    for role, atlas in atlases.items():
        own = regions[regions["role"] == role]
        if not len(own):
            raise UsageError(
                "there are no contributions of this modality",
                where=role,
                expected=" or ".join(sorted(set(regions["role"]))),
            )
        groups = sorted(set(own["group"]) - {"all"}) or ["all"]
        for group in groups[:most]:
            table = own[own["group"] == group]
            values = dict(zip(table["region"], table["mean_contribution_years"], strict=True))
            found = region_map(values, atlas)
            caption = f"Mean contribution of each region ({role}), years: {group}."
            if found.unmatched:
                caption += f" {len(found.drawn)} of {len(values)} regions are in the atlas."
            drawn.append((caption, _map_png(found.image, None)))
    return tuple(drawn)


def _map_png(image: Nifti1Image, title: str | None) -> bytes:
    from nilearn.plotting import plot_stat_map

    value = np.asarray(image.dataobj)
    largest = float(np.abs(value).max()) or 1.0
    signed = bool((value < 0).any())
    display = plot_stat_map(
        image,
        display_mode="z",
        cut_coords=_CUTS,
        title=title,
        cmap="cold_hot" if signed else "inferno",
        vmin=-largest if signed else 0.0,
        vmax=largest,
        symmetric_cbar=signed,
        threshold=1e-6 * largest,
    )
    try:
        return _png(display.frame_axes.figure)
    finally:
        display.close()


def bar_chart(table: pd.DataFrame, path: Path, title: str, top: int = 20) -> Path:
    """Draw the first rows of a table of importances as bars with their intervals, and write it as PNG.

    Parameters
    ----------
    table : with `mean_abs`, `low`, `high` (years) and `region` or `feature`, as in `Importance`.
    """
    from matplotlib.figure import Figure

    shown = table.head(top).iloc[::-1]
    name = "feature" if "feature" in shown else "region"
    figure = Figure(figsize=(7, 1 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    middle = shown["mean_abs"].to_numpy()
    reach = np.stack([middle - shown["low"].to_numpy(), shown["high"].to_numpy() - middle])
    axes.barh(shown[name].astype(str), middle, xerr=np.maximum(reach, 0), color="#3b6ea5", capsize=2)
    axes.set_xlabel("mean absolute contribution to the age, years (95 % interval)")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return _write(figure, path)


def _key(name: str) -> str:
    """Letters and digits in lower case, without FreeSurfer's word for the cortex."""
    plain = re.sub(r"[^a-z0-9]", "", name.casefold().replace("&", "and"))
    return re.sub(r"^ctx(?=[lr]h)", "", plain)


def _image(value: np.ndarray, affine: np.ndarray) -> Nifti1Image:
    from nibabel.nifti1 import Nifti1Image

    return Nifti1Image(np.asarray(value, dtype=np.float32), affine)


def _write(figure: Figure, path: Path) -> Path:
    return _write_bytes(path, _png(figure))


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=_DPI)
    return picture.getvalue()


def _write_bytes(path: Path, content: bytes) -> Path:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
    return path
