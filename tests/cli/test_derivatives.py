"""Images and BIDS derivatives through the command: what is typed, the account, and the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli.commands import Brainage
from cohorts.nifti_files import AFFINE, SHAPE, voxels, write_image

from hpc_brainage.store.reader import Store

SPACE = "space-MNI152NLin2009cAsym"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three people: images in two resolutions, and a table that knows two of them."""
    folder = tmp_path / "derivatives"
    for number, person in enumerate(("01", "02", "03")):
        anat = folder / f"sub-{person}" / "anat"
        write_image(anat / f"sub-{person}_{SPACE}_res-1_desc-preproc_T1w.nii.gz", voxels(number, (9, 9, 9)))
        write_image(anat / f"sub-{person}_{SPACE}_res-2_desc-preproc_T1w.nii.gz", voxels(number))
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (folder / "participants.tsv").write_text(
        "participant_id\tage\tsex\thand\tiq\nsub-01\t20\tF\tleft\t100\nsub-02\t30\tM\tright\tn/a\n"
    )
    return folder


def test_a_tree_becomes_a_verified_store_of_volumes(brainage: Brainage, tmp_path: Path, tree: Path) -> None:
    done = brainage("convert", tree, "t1w.zarr", "--entities", "res=2")
    assert done.code == 0, done.text
    assert "not in participants.tsv" in done.text
    store = Store.open(tmp_path / "t1w.zarr")
    assert store.scans["participant_id"].tolist() == ["01", "02", "03"]
    np.testing.assert_array_equal(store.scans["age"], [20, 30, np.nan])
    assert store.scans["hand"].tolist() == ["left", "right", ""]
    np.testing.assert_array_equal(store.scans["iq"], [100, np.nan, np.nan])
    modality = store.modalities["smri/t1w"]
    assert modality.shape == SHAPE
    np.testing.assert_allclose(np.array(modality.affine), AFFINE)
    assert brainage("verify", "t1w.zarr").code == 0


def test_which_image_is_meant_must_be_said(brainage: Brainage, tree: Path) -> None:
    asked = brainage("convert", tree)
    assert asked.code == 3
    assert "2 files could be the structural image of sub-01" in asked.text
    assert "res (1, 2)" in asked.text
    assert "--entities res=1" in asked.text
    assert brainage("convert", tree, "--entities", "res").code == 2
    assert "has the entity 'rse'" in brainage("convert", tree, "--entities", "res=1,rse=2").text


def test_a_recipe_may_hold_the_entities(brainage: Brainage, tmp_path: Path, tree: Path) -> None:
    recipe = tmp_path / "cohort.toml"
    recipe.write_text(f'source = "{tree.name}"\noutput = "cohort.zarr"\nentities = "res=1"\n')
    assert brainage("convert", "--recipe", recipe).code == 0
    assert Store.open(tmp_path / "cohort.zarr").modalities["smri/t1w"].shape == (9, 9, 9)


def test_images_that_cannot_be_taken_are_listed_and_the_others_converted(
    brainage: Brainage, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    for number in range(4):
        write_image(folder / f"sub-{number}_T1w.nii.gz", voxels(number), orientation="LPI")
    write_image(folder / "sub-4_T1w.nii.gz", voxels(shape=(6, 6, 6)))
    write_image(folder / "sub-5_T1w.nii.gz", voxels(shape=(*SHAPE, 2)))
    write_image(folder / "sub-6_T1w.nii.gz", voxels() * 0)
    whole = write_image(folder / "sub-7_T1w.nii.gz", voxels(7)).read_bytes()
    (folder / "sub-7_T1w.nii.gz").write_bytes(whole[:-30])
    (tmp_path / "people.csv").write_text("id,age\n" + "".join(f"{n},{20 + n}\n" for n in range(8)))
    done = brainage("convert", "people.csv", "t.zarr", "--add", f"smri/t1w={folder}/*_T1w.nii.gz")
    assert done.code == 4
    assert "turned to RAS order" in done.text
    account = pd.read_csv(tmp_path / "t.account.tsv", sep="\t", dtype=str).to_csv()
    for word in ("6 x 6 x 6", "series of volumes", "every value is 0", "cannot be read to its end"):
        assert word in account
    store = Store.open(tmp_path / "t.zarr")
    assert store.present("smri/t1w").sum() == 4
    assert brainage("verify", "t.zarr").code == 0


@pytest.mark.real
def test_real_images_of_different_grids_convert_and_verify(
    brainage: Brainage, tmp_path: Path, real_data: Path
) -> None:
    done = brainage("convert", real_data / "nifti_samples", "samples.zarr")
    assert done.code == 4
    assert "3 scans in the store" in done.text
    assert "refused: 12" in done.text
    assert brainage("verify", "samples.zarr").code == 0
