"""OpenBHB in both public layouts: who is in it, what they have, and every way a download breaks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import nibabel
import numpy as np
import openbhb_trees as trees
import pandas as pd
import pytest
from battery import check_cohort
from openbhb_trees import IDS

from hpc_brainage.cohorts.feature_names import zero_is_missing
from hpc_brainage.cohorts.openbhb import is_openbhb, read_openbhb
from hpc_brainage.cohorts.openbhb_names import (
    ARRAYS,
    DESIKAN_REGIONS,
    DESTRIEUX_REGIONS,
    FREESURFER_CHANNELS,
    VBM_REGIONS,
    channel_unit,
    roi_feature_names,
    roi_feature_units,
)
from hpc_brainage.errors import CohortError, ScanRefused

LAYOUTS = {
    "huggingface": trees.huggingface,
    "ieee": trees.ieee,
    "data": lambda folder: trees.ieee(folder, "data"),
    "one folder per archive": lambda folder: trees.ieee(folder, "archives/all"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return trees.huggingface(tmp_path / "openbhb")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_people_and_numbers(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "OpenBHB")
    assert is_openbhb(folder)
    cohort = check_cohort(lambda: read_openbhb(folder))
    assert cohort.name == "OpenBHB"
    assert cohort.scans["participant_id"].tolist() == list(IDS)
    assert cohort.scans["session_id"].tolist() == ["", "", ""]
    assert cohort.scans["sex"].tolist() == ["F", "M", "M"]
    assert cohort.scans["age"].tolist() == [19.0, 61.5, 8.25]
    assert cohort.scans["split"].tolist() == ["train", "internal_test", "external_test"]
    assert cohort.scans["diagnosis"].tolist() == ["control"] * 3
    assert list(cohort.sources) == [
        "smri/vbm_roi",
        "smri/desikan_roi",
        "smri/destrieux_roi",
        "smri/cat12vbm",
        "smri/quasiraw",
    ]
    for key, source in cohort.sources.items():
        has = [True, True, source.modality.kind == "features"]
        assert source.present.tolist() == has
        for person in np.flatnonzero(has):
            expected = trees.values(key.removeprefix("smri/"), int(person))
            loaded = source.load(int(person))
            np.testing.assert_array_equal(loaded, expected.reshape(loaded.shape))
    assert not cohort.account.refusals
    measured = {source.source: (source.matched, source.without) for source in cohort.account.sources}
    assert measured["smri/cat12vbm"] == (2, 1)
    assert measured["smri/desikan_roi"] == (3, 0)


def test_the_site_is_centre_and_acquisition_where_the_release_has_it(tmp_path: Path) -> None:
    new = read_openbhb(trees.huggingface(tmp_path / "new")).scans
    assert new["site"].tolist() == ["12", "7", "60"]
    assert new["siteXacq"].tolist() == [12, 7, 60]
    assert new["original_site"].tolist()[::2] == [48.0, 3.0]
    old = read_openbhb(trees.ieee(tmp_path / "old")).scans
    assert old["site"].tolist() == ["48", "", "3"]


def test_site_labels_of_the_ieee_release_are_used(tmp_path: Path) -> None:
    folder = trees.ieee(tmp_path / "ieee")
    (folder / "train_site_labels_v1.tsv").write_text(f"participant_id\tsiteXacq\n{IDS[0]}\t12\n")
    (folder / "test_site_labels_v1.tsv").write_text(f"participant_id\tsiteXacq\n{IDS[1]}\t7\n")
    assert read_openbhb(folder).scans["site"].tolist() == ["12", "7", ""]
    (folder / "test_site_labels_v1.tsv").write_text(f"participant_id\tsiteXacq\n{IDS[0]}\t7\n")
    with pytest.raises(CohortError, match="two values of siteXacq"):
        read_openbhb(folder)


def test_an_empty_split_means_train_and_is_noted(tmp_path: Path) -> None:
    cohort = read_openbhb(trees.ieee(tmp_path / "ieee"))
    assert any("1 scans have no split" in note for note in cohort.account.notes)


def test_a_release_without_splits_has_none(tmp_path: Path) -> None:
    folder = trees.ieee(tmp_path / "old")
    table = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=str).drop(columns="split")
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    assert read_openbhb(folder).scans["split"].tolist() == ["", "", ""]


def test_roi_files_of_each_person_stand_in_for_a_table(tree: Path) -> None:
    (tree / "train" / "derivatives" / trees.TABLES["desikan_roi"]).unlink()
    for person in (0, 1):
        trees.scan_file(trees.scan_folder(tree, person), "desikan_roi", person)
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert cohort.sources["smri/desikan_roi"].present.all()


def test_features_are_named_by_region_and_channel_in_channel_major_order(tree: Path) -> None:
    sources = read_openbhb(tree).sources
    desikan = sources["smri/desikan_roi"].modality
    assert desikan.features[0] == "lh_bankssts_area"
    assert desikan.features[68] == "lh_bankssts_volume"
    assert desikan.features[-1] == "rh_insula_curvind"
    assert desikan.units[::68] == ("mm2", "mm3", "mm", "mm", "mm-1", "mm-2", "")
    values = sources["smri/desikan_roi"].load(0)
    assert values[68 * 2 + 5] == trees.values("desikan_roi", 0)[2, 5]
    vbm = sources["smri/vbm_roi"].modality
    assert vbm.features[0] == "l3thVen_GM_Vol"
    assert vbm.features[142] == "l3thVen_CSF_Vol"
    assert set(vbm.units) == {""}


def test_roi_columns_are_known_by_position_whatever_their_header(tree: Path) -> None:
    trees.roi_table(tree, "desikan_roi", [0, 1], header="lh-bankssts")  # the same name 476 times
    table = trees.roi_table(tree, "destrieux_roi", [0, 1], header="{i}")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    sources = read_openbhb(tree).sources
    for name in ("desikan_roi", "destrieux_roi"):
        np.testing.assert_array_equal(sources[f"smri/{name}"].load(1), trees.values(name, 1).reshape(-1))


def test_official_shapes_hold_without_resources_json(tmp_path: Path) -> None:
    trees.people_tsv(tmp_path)
    folder = trees.scan_folder(tmp_path, 0)
    rng = np.random.default_rng(0)
    shapes = {array.name: array.shape for array in ARRAYS}
    written = {}
    for name in ("cat12vbm", "quasiraw", "xhemi"):
        written[name] = rng.integers(0, 20, shapes[name], dtype=np.uint8)
        trees.scan_file(folder, name, 0, written[name])
    sources = read_openbhb(tmp_path).sources
    assert sources["smri/cat12vbm"].modality.shape == (121, 145, 121)
    assert sources["smri/quasiraw"].modality.shape == (182, 218, 182)
    assert sources["smri/xhemi"].modality.shape == (8, 163_842)
    assert sources["smri/xhemi"].modality.features[3] == "lh.thickness"
    assert sources["smri/xhemi"].modality.units[3] == "mm"
    assert sources["smri/cat12vbm"].modality.affine is None
    assert sources["smri/quasiraw"].modality.affine[0] == (-1.0, 0.0, 0.0, 90.0)
    for name, array in written.items():
        np.testing.assert_array_equal(sources[f"smri/{name}"].load(0), array)


def test_the_affine_comes_from_the_template(tree: Path) -> None:
    affine = np.diag([-7.0, 8.0, 9.0, 1.0])
    template = tree / "resource" / "cat12vbm_space-MNI152_desc-gm_TPM.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros(trees.GRID, np.float32), affine), template)
    sources = read_openbhb(tree).sources
    assert np.array_equal(sources["smri/cat12vbm"].modality.affine, affine)
    assert sources["smri/quasiraw"].modality.affine is None  # its small grid is not the official one
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), affine), template)
    with pytest.raises(CohortError, match=r"grid \(3, 3, 3\)"):
        read_openbhb(tree)
    template.write_bytes(b"no image")
    with pytest.raises(CohortError, match="template image cannot be read"):
        read_openbhb(tree)


def test_quality_is_joined_by_participant(tree: Path) -> None:
    (tree / "qc.tsv").write_text(
        "participant_id\treconall-euler\tcat12vbm-ncr\tsite\n"
        f"{IDS[2]}\t-20\t2.5\ta\n555555555555\t0\t1\tb\n{IDS[0]}\t-40\t2.25\tc\n"
    )
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert cohort.scans["reconall-euler"].fillna(0).tolist() == [-40, 0, -20]
    assert cohort.scans["qc_site"].tolist()[::2] == ["c", "a"]
    assert cohort.scans["site"].tolist() == ["12", "7", "60"]
    assert any("qc.tsv: 1 people are not among the scans" in note for note in cohort.account.notes)


def test_people_without_files_stay_and_files_without_people_are_listed(tree: Path) -> None:
    trees.people_tsv(tree, ids=(IDS[0], IDS[1], "222222222222"))
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert cohort.scans["participant_id"].tolist()[2] == "222222222222"
    assert not any(source.present[2] for source in cohort.sources.values())
    desikan = next(s for s in cohort.account.sources if s.source == "smri/desikan_roi")
    assert desikan.rows == 3
    assert desikan.matched == 2
    assert desikan.only_here == ((IDS[2], "", ""),)
    assert desikan.without == 1


def test_a_refused_persons_files_are_not_called_strangers(tree: Path) -> None:
    text = (tree / "participants.tsv").read_text().replace("61.5", "abc")
    (tree / "participants.tsv").write_text(text)
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert len(cohort) == 2
    assert [refusal.participant_id for refusal in cohort.account.refusals] == [IDS[1]]
    assert all(source.only_here == () for source in cohort.account.sources)
    np.testing.assert_array_equal(
        cohort.sources["smri/vbm_roi"].load(1), trees.values("vbm_roi", 2)
    )  # the rows behind the refused one keep their own numbers


def test_sessions_are_told_apart_only_where_there_are_several(tree: Path) -> None:
    second = trees.scan_folder(tree, 0).parent / "ses-2"
    trees.scan_file(second, "cat12vbm", 0, trees.values("cat12vbm", 77))
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert list(zip(cohort.scans["participant_id"], cohort.scans["session_id"], strict=True)) == [
        (IDS[0], "1"),
        (IDS[0], "2"),
        (IDS[1], "1"),
        (IDS[2], "1"),
    ]
    volume = cohort.sources["smri/cat12vbm"]
    np.testing.assert_array_equal(volume.load(1), trees.values("cat12vbm", 77))
    assert cohort.sources["smri/desikan_roi"].present.tolist() == [True, False, True, True]
    assert any("1 people have several sessions" in note for note in cohort.account.notes)


def test_zero_area_volume_or_thickness_is_missing_and_zero_curvature_is_not(tree: Path) -> None:
    table = tree / "train" / "derivatives" / trees.TABLES["desikan_roi"]
    for column in (3, 68 + 3, 2 * 68 + 3, 3 * 68 + 3, 5 * 68 + 3):
        trees.set_cell(table, 0, column, "0")
    vbm = tree / "train" / "derivatives" / trees.TABLES["vbm_roi"]
    trees.set_cell(vbm, 0, 9, "0.0")
    cohort = check_cohort(lambda: read_openbhb(tree))
    values = cohort.sources["smri/desikan_roi"].load(0)
    assert np.isnan(values[[3, 71, 139]]).all()
    assert values[[207, 343]].tolist() == [0, 0]
    assert np.isnan(values).sum() == 3
    assert cohort.sources["smri/vbm_roi"].load(0)[9] == 0
    (note,) = [note for note in cohort.account.notes if "exactly 0" in note]
    assert "smri/desikan_roi: 3 areas, volumes or thicknesses" in note
    assert "in 1 scans" in note


def test_zero_is_missing_in_roi_files_too(tmp_path: Path) -> None:
    folder = trees.ieee(tmp_path)
    array = trees.values("desikan_roi", 0)
    array[0, 4] = array[3, 4] = 0
    trees.scan_file(folder, "desikan_roi", 0, array)
    values = read_openbhb(folder).sources["smri/desikan_roi"].load(0)
    assert np.isnan(values[4])
    assert values[3 * 68 + 4] == 0


def test_the_rule_about_zeros_is_that_of_all_tables() -> None:
    names = roi_feature_names(DESIKAN_REGIONS, FREESURFER_CHANNELS)
    units = roi_feature_units(DESIKAN_REGIONS, FREESURFER_CHANNELS)
    found = [zero_is_missing(*pair) for pair in zip(names, units, strict=True)]
    assert found == [True] * (3 * 68) + [False] * (4 * 68)
    assert not any(zero_is_missing(name, "") for name in VBM_REGIONS)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("2.x", "lh_caudalanteriorcingulate_area is '2.x', which is not a number"),
        ("inf", "lh_caudalanteriorcingulate_area is infinite"),
    ],
)
def test_a_cell_that_is_no_number_costs_that_scan_only(tree: Path, cell: str, reason: str) -> None:
    table = tree / "train" / "derivatives" / trees.TABLES["desikan_roi"]
    trees.set_cell(table, 1, 1, cell)
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert cohort.sources["smri/desikan_roi"].present.tolist() == [True, False, True]
    assert cohort.sources["smri/vbm_roi"].present.all()
    (refusal,) = cohort.account.refusals
    assert (refusal.participant_id, refusal.source) == (IDS[1], "smri/desikan_roi")
    assert refusal.reason == f"desikan_roi_features.csv: {reason}"
    np.testing.assert_array_equal(
        cohort.sources["smri/desikan_roi"].load(0), trees.values("desikan_roi", 0).reshape(-1)
    )


@pytest.mark.parametrize("marker", ["", "NaN", "n/a"])
def test_a_missing_cell_is_missing(tree: Path, marker: str) -> None:
    trees.set_cell(tree / "train" / "derivatives" / trees.TABLES["vbm_roi"], 0, 7, marker)
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert np.flatnonzero(np.isnan(cohort.sources["smri/vbm_roi"].load(0))).tolist() == [7]
    assert not cohort.account.refusals


def test_a_row_without_any_value_is_refused(tree: Path) -> None:
    table = tree / "val" / "derivatives" / trees.TABLES["vbm_roi"]
    header = table.read_text().splitlines()[0]
    table.write_text(f"{header}\n{IDS[2]},ses-1{',' * 284}\n")
    cohort = read_openbhb(tree)
    assert cohort.sources["smri/vbm_roi"].present.tolist() == [True, True, False]
    assert "no values" in cohort.account.refusals[0].reason


def test_two_rows_of_one_scan_are_refused_unless_they_agree(tree: Path) -> None:
    table = trees.roi_table(tree, "vbm_roi", [0, 1, 1])
    assert read_openbhb(tree).sources["smri/vbm_roi"].present.all()
    trees.set_cell(table, 2, 0, "3.5")
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert cohort.sources["smri/vbm_roi"].present.tolist() == [True, False, True]
    assert "two different rows" in cohort.account.refusals[0].reason


def test_two_files_of_one_scan_are_refused(tree: Path) -> None:
    trees.scan_file(trees.scan_folder(tree, 0, split="val"), "cat12vbm", 0)
    cohort = check_cohort(lambda: read_openbhb(tree))
    assert cohort.sources["smri/cat12vbm"].present.tolist() == [False, True, False]
    assert "several files claim to be this scan" in cohort.account.refusals[0].reason


@pytest.mark.parametrize(
    ("spoil", "table_error"),
    [
        (lambda text: text.replace("participant_id", "subject"), "no column participant_id"),
        (lambda text: "\n".join(line.rpartition(",")[0] for line in text.split("\n")), "283 feature"),
        (lambda text: "\n".join(line + ",1" for line in text.strip().split("\n")), "285 feature"),
        (lambda text: text.strip() + ",7\n", "not readable as an ROI table"),
        (lambda text: text.strip().rpartition(",")[0] + "\n", "not readable as an ROI table"),
        (lambda text: "", "no column participant_id"),
    ],
)
def test_an_roi_table_of_another_form_is_an_error(tree: Path, spoil, table_error: str) -> None:
    table = tree / "train" / "derivatives" / trees.TABLES["vbm_roi"]
    table.write_text(spoil(table.read_text()))
    with pytest.raises(CohortError, match=table_error) as error:
        read_openbhb(tree)
    assert "cat12vbm_roi_features.csv" in str(error.value)


def test_broken_volumes_are_refused_when_they_are_loaded(tree: Path) -> None:
    first = trees.scan_folder(tree, 0) / f"sub-{IDS[0]}_preproc-cat12vbm_desc-gm_T1w.npy"
    first.write_bytes(first.read_bytes()[:-8])
    image = trees.values("quasiraw", 0)
    image[0, 0, 0] = np.nan
    trees.scan_file(trees.scan_folder(tree, 0), "quasiraw", 0, image)
    trees.scan_file(trees.scan_folder(tree, 1), "cat12vbm", 1, np.ones((4, 4, 4)))
    trees.scan_file(trees.scan_folder(tree, 1), "quasiraw", 1, np.zeros(trees.GRID))
    cohort = read_openbhb(tree)
    for key, row, reason in (
        ("smri/cat12vbm", 0, "truncated"),
        ("smri/quasiraw", 0, "NaN"),
        ("smri/cat12vbm", 1, "shape"),
        ("smri/quasiraw", 1, "empty"),
    ):
        assert cohort.sources[key].present[row]
        with pytest.raises(ScanRefused, match=reason) as refused:
            cohort.sources[key].load(row)
        assert IDS[row] in str(refused.value.where)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickled_scan_is_refused_and_never_unpickled(tree: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = trees.scan_folder(tree, 0) / f"sub-{IDS[0]}_preproc-cat12vbm_desc-gm_T1w.npy"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(sprung)
    np.save(trees.scan_folder(tree, 1) / f"sub-{IDS[1]}_preproc-quasiraw_T1w.npy", trap)
    cohort = read_openbhb(tree)
    for key, row in (("smri/cat12vbm", 0), ("smri/quasiraw", 1)):
        with pytest.raises(ScanRefused):
            cohort.sources[key].load(row)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"shape": [-1, 7, 60], "features": list("ab"), "channels": ["c"]}, "has shape"),
        ({"shape": [-1, 3], "features": list("abc"), "channels": ["c"]}, "has shape"),
        ({"features": list("abc"), "channels": ["c"]}, "lacks"),
        ({"shape": "wide", "features": [], "channels": []}, "lacks"),
    ],
)
def test_resources_that_contradict_themselves_are_an_error(tree: Path, entry, problem: str) -> None:
    path = trees.resources(tree)
    path.write_text(json.dumps({**json.loads(path.read_text()), "desikan_roi": entry}))
    with pytest.raises(CohortError, match=problem) as error:
        read_openbhb(tree)
    assert "desikan_roi" in str(error.value)
    path.write_text("{")
    with pytest.raises(CohortError, match="not readable as JSON"):
        read_openbhb(tree)
    path.write_text("[]")
    with pytest.raises(CohortError, match="no JSON object"):
        read_openbhb(tree)


def test_what_is_no_openbhb_is_not_taken_for_it(tmp_path: Path) -> None:
    assert not is_openbhb(tmp_path)
    assert not is_openbhb(tmp_path / "absent")
    trees.people_tsv(tmp_path)
    raw = tmp_path / "train" / "rawdata" / f"sub-{IDS[0]}" / "ses-1" / "anat"
    raw.mkdir(parents=True)
    (raw / f"sub-{IDS[0]}_preproc-quasiraw_T1w.npy").write_bytes(b"")
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "sub-01_T1w.npy").write_bytes(b"")
    assert not is_openbhb(tmp_path)
    trees.scan_file(trees.scan_folder(tmp_path, 0), "quasiraw", 0)
    assert is_openbhb(tmp_path)


def test_a_folder_without_people_or_without_arrays_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"no participants\.tsv"):
        read_openbhb(tmp_path)
    trees.people_tsv(tmp_path)
    with pytest.raises(CohortError, match="no preprocessed OpenBHB file"):
        read_openbhb(tmp_path)


def test_a_volume_that_is_replaced_by_a_longer_file_makes_another_fingerprint(tree: Path) -> None:
    before = {key: source.fingerprint for key, source in read_openbhb(tree).sources.items()}
    assert before["smri/desikan_roi"] == ""
    file = trees.scan_folder(tree, 0) / f"sub-{IDS[0]}_preproc-{trees.FILES['cat12vbm']}.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    truncated = {key: source.fingerprint for key, source in read_openbhb(tree).sources.items()}
    assert truncated["smri/cat12vbm"] != before["smri/cat12vbm"] != ""
    assert truncated["smri/quasiraw"] == before["smri/quasiraw"]
    file.write_bytes(content)
    moved = tree.rename(tree.with_name("moved"))
    assert {key: source.fingerprint for key, source in read_openbhb(moved).sources.items()} == before


def test_files_with_other_names_are_noted(tree: Path) -> None:
    np.save(trees.scan_folder(tree, 0) / f"sub-{IDS[0]}_preproc-fsl_T1w.npy", np.zeros(3))
    notes = read_openbhb(tree).account.notes
    assert any("1 files have names that OpenBHB does not use" in note for note in notes)


def test_linked_folders_are_followed_once(tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for entry in tree.iterdir():
        (home / entry.name).symlink_to(entry)
    (tree / "train" / "loop").symlink_to(tree)
    cohort = read_openbhb(home)
    assert cohort.sources["smri/cat12vbm"].present.tolist() == [True, True, False]
    assert not cohort.account.refusals


def test_channels_end_in_their_unit() -> None:
    assert [channel_unit(channel) for channel in FREESURFER_CHANNELS[:3]] == ["mm2", "mm3", "mm"]
    assert channel_unit("GM") == ""
    assert (len(VBM_REGIONS), len(DESIKAN_REGIONS), len(DESTRIEUX_REGIONS)) == (284, 68, 148)


@pytest.mark.real
def test_our_names_and_shapes_are_those_of_the_release(real_data: Path) -> None:
    official = json.loads((real_data / "openbhb_resources" / "resources.json").read_text())
    assert {array.resource for array in ARRAYS} == set(official)
    for array in ARRAYS:
        entry = official[array.resource]
        assert tuple(entry["features"] or ()) == array.regions
        assert tuple(entry["channels"]) == array.channels
        lead = 2 if len(entry["shape"]) > len(array.shape) + 1 else 1
        assert tuple(entry["shape"][lead:]) == array.shape


@pytest.mark.real
def test_the_quasiraw_template_has_the_affine_that_we_know(real_data: Path, tmp_path: Path) -> None:
    name = "quasiraw_space-MNI152_desc-brain_T1w.nii.gz"
    template = nibabel.load(real_data / "openbhb_resources" / name)
    trees.people_tsv(tmp_path)
    array = np.ones(template.shape, dtype=np.uint8)
    array[0] = 0
    trees.scan_file(trees.scan_folder(tmp_path, 0), "quasiraw", 0, array)
    known = read_openbhb(tmp_path).sources["smri/quasiraw"].modality
    assert known.shape == template.shape
    np.testing.assert_array_equal(known.affine, template.affine)
    (tmp_path / "resource").mkdir()
    (tmp_path / "resource" / name).symlink_to(real_data / "openbhb_resources" / name)
    (tmp_path / "resource" / "resources.json").symlink_to(
        real_data / "openbhb_resources" / "resources.json"
    )
    assert read_openbhb(tmp_path).sources["smri/quasiraw"].modality == known
