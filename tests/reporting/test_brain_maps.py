"""Importances on a small made-up atlas."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from hpc_brainage.errors import UsageError
from hpc_brainage.reporting.brain_maps import (
    bar_chart,
    contribution_maps,
    draw_map,
    importance_figures,
    region_map,
    voxel_map,
)

AFFINE = np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
PNG = b"\x89PNG"


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """Two insulae by name, and a third region of which only the number is known."""
    labels = np.zeros((23, 27, 23), dtype=np.int16)
    labels[4:9, 10:15, 8:13] = 1035
    labels[14:19, 10:15, 8:13] = 2035
    labels[9:14, 18:23, 8:13] = 7
    path = tmp_path / "atlas.nii.gz"
    nibabel.Nifti1Image(labels, AFFINE).to_filename(path)
    path.with_name("atlas.tsv").write_text("index\tname\n1035\tctx-lh-insula\n2035\tctx_rh_insula\n")
    return path


def test_a_region_s_value_stands_in_its_voxels_and_nowhere_else(atlas: Path) -> None:
    found = region_map({"lh_insula": 0.5, "rh_insula": -0.25, "7": 0.125}, atlas)
    labels = np.asarray(nibabel.load(atlas).dataobj)
    image = np.asarray(found.image.dataobj)
    for label, value in ((0, 0), (1035, 0.5), (2035, -0.25), (7, 0.125)):
        assert set(image[labels == label]) == {value}
    np.testing.assert_array_equal(found.image.affine, AFFINE)
    assert found.unmatched == ()


def test_a_region_that_the_atlas_lacks_is_named(atlas: Path) -> None:
    found = region_map({"lh_insula": 1.0, "lh_cuneus": 2.0, "roi_7": 3.0}, atlas)
    assert found.drawn == ("lh_insula", "roi_7")
    assert found.unmatched == ("lh_cuneus",)
    assert np.asarray(found.image.dataobj).max() == 3.0


def test_an_atlas_of_other_regions_is_refused(atlas: Path) -> None:
    with pytest.raises(UsageError, match="has none of the regions") as problem:
        region_map({"lHip": 1.0}, atlas)
    assert "ctx-lh-insula" in str(problem.value) or "roi_7" in str(problem.value)


def test_contributions_of_groups_are_drawn_with_their_captions(atlas: Path) -> None:
    rows = [
        ("smri", region, group, years)
        for group, sign in (("all", 1), ("case", 1), ("$\\frac", -1))
        for region, years in (("lh_insula", 0.5 * sign), ("rh_cuneus", -0.1))
    ]
    regions = pd.DataFrame(rows, columns=["role", "region", "group", "mean_contribution_years"])
    drawn = contribution_maps(regions, {"smri": atlas})
    assert [caption for caption, _ in drawn] == [
        f"Mean contribution of each region (smri), years: {group}. 1 of 2 regions are in the atlas."
        for group in ("$\\frac", "case")
    ]
    assert all(png[:4] == PNG for _, png in drawn)
    assert drawn[0][1] != drawn[1][1]
    assert contribution_maps(regions, {"smri": atlas}) == drawn
    with pytest.raises(UsageError, match="no contributions of this modality"):
        contribution_maps(regions, {"fmri": atlas})


def test_a_map_is_drawn_with_one_sign_or_both(atlas: Path, tmp_path: Path) -> None:
    for name, right in (("one", 0.25), ("both", -0.25)):
        image = region_map({"lh_insula": 0.5, "rh_insula": right}, atlas).image
        drawn = draw_map(image, tmp_path / "figures" / f"{name}.png", "Regions")
        assert drawn.read_bytes()[:4] == PNG


def test_a_volume_s_map_keeps_its_voxels_and_its_place() -> None:
    years = np.random.default_rng(0).normal(size=(4, 5, 6))
    image = voxel_map(years, tuple(map(tuple, AFFINE)))
    np.testing.assert_allclose(np.asarray(image.dataobj), years, rtol=1e-6)
    np.testing.assert_array_equal(image.affine, AFFINE)


def test_without_an_atlas_there_is_a_bar_chart(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"region": [f"r{i}" for i in range(30)], "mean_abs": np.linspace(1, 0, 30), "low": 0.0, "high": 1.2}
    )
    assert bar_chart(table, tmp_path / "bars.png", "Structural MRI", top=5).read_bytes()[:4] == PNG
    edges = table.rename(columns={"region": "feature"})
    assert bar_chart(edges, tmp_path / "edges.png", "Connections").read_bytes()[:4] == PNG


def test_every_modality_is_drawn_and_those_with_a_place_are_mapped(atlas: Path, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "role": ["smri", "smri", "fmri"],
            "region": ["lh_insula", "lh_cuneus", "Vis"],
            "mean_abs": [0.3, 0.2, 0.1],
            "low": 0.0,
            "high": 0.4,
        }
    )
    drawn = importance_figures(table, {}, tmp_path / "a", atlases={"smri": atlas}, affines={})
    assert [path.name for path in drawn] == ["smri_regions.png", "smri_map.png", "fmri_regions.png"]
    maps = {"smri": (-np.ones((12, 14, 12)), np.ones((12, 14, 12)))}
    drawn = importance_figures(table[:0], maps, tmp_path / "b", atlases={}, affines={"smri": AFFINE})
    assert [path.name for path in drawn] == ["smri_signed.png", "smri_map.png"]
    assert all(path.read_bytes()[:4] == PNG for path in drawn)
    with pytest.raises(UsageError, match="without an affine"):
        importance_figures(table[:0], maps, tmp_path / "c", atlases={}, affines={})
