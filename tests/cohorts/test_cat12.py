from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from battery import check_cohort

from hpc_brainage.cohorts.cat12 import is_cat12, read_cat12
from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.openbhb_names import VBM_REGIONS
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.errors import CohortError, UsageError

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'
REGIONS = ("lHip", "rHip", "l3thVen")
SAMPLES = "format_samples/cat12"


def report(volumes: str = "[233.4 677.4 528.3 0.02 0]", total: str = "1439.12") -> str:
    return (
        HEAD
        + f"""<S>
   <filedata><file>IXI002</file></filedata>
   <qualitymeasures><NCR>0.1</NCR><ICR>0.4</ICR></qualitymeasures>
   <qualityratings>
      <res_vx_vol>[1.875 1.875 2.4]</res_vx_vol><res_RMS>2.06</res_RMS>
      <NCR>1.83</NCR><ICR>1.46</ICR><IQR>1.97</IQR>
   </qualityratings>
   <software><version_cat>1126</version_cat></software>
   <subjectmeasures><vol_abs_CGW>{volumes}</vol_abs_CGW><vol_TIV>{total}</vol_TIV></subjectmeasures>
   <subjectratings><vol_TIV>1.03</vol_TIV></subjectratings>
</S>
"""
    )


def rois(regions: Sequence[str] = REGIONS, atlas: str = "neuromorphometrics", **measures: str) -> str:
    measures = measures or {"Vgm": "[3.1;3.2;0.01]", "Vwm": "[0.1;0.2;0]", "Vcsf": "[0.5;NaN;1.5]"}
    names = "".join(f"<item>{region}</item>" for region in regions)
    data = "".join(f"<{name}>{value}</{name}>" for name, value in measures.items())
    return HEAD + f"<S><{atlas}><ids>[1;2;3]</ids><names>{names}</names><data>{data}</data></{atlas}></S>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans as CAT12 lays them out."""
    for name in ("sub-01_ses-1_T1w", "sub-02_ses-1_T1w"):
        write(tmp_path / "report" / f"cat_{name}.xml", report())
        write(tmp_path / "label" / f"catROI_{name}.xml", rois())
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def values(cohort: Cohort, key: str, row: int = 0) -> dict[str, float]:
    source = cohort.sources[key]
    return dict(zip(source.modality.features, source.load(row).tolist(), strict=True))


def reasons(cohort: Cohort) -> dict[tuple[str, str], str]:
    return {(refusal.scan, refusal.source): refusal.reason for refusal in cohort.account.refusals}


def test_reports_and_roi_tables_are_one_cohort(folder: Path) -> None:
    cohort = check_cohort(lambda: open_cohort(folder))
    assert cohort.scans[["participant_id", "session_id"]].to_numpy().tolist() == [["01", "1"], ["02", "1"]]
    assert cohort.scans["age"].isna().all()
    volumes = cohort.sources["smri/cat12_volumes"].modality
    assert volumes.features == ("vol_TIV", "vol_CSF", "vol_GM", "vol_WM", "vol_WMH", "vol_SL")
    assert set(volumes.units) == {"cm3"}
    assert values(cohort, "smri/cat12_volumes")["vol_GM"] == pytest.approx(677.4)
    atlas = cohort.sources["smri/cat12_neuromorphometrics"].modality
    assert atlas.features[:3] == ("lHip_GM_Vol", "rHip_GM_Vol", "l3thVen_GM_Vol")
    assert set(atlas.units) == {"cm3"}
    found = values(cohort, "smri/cat12_neuromorphometrics")
    assert (found["lHip_GM_Vol"], found["l3thVen_WM_Vol"]) == (pytest.approx(3.1), 0)
    assert set(atlas.features) - {"lHip_WM_Vol", "rHip_WM_Vol", "l3thVen_WM_Vol"} <= set(VBM_REGIONS)


def test_quality_is_beside_the_brain_and_its_marks_are_those_of_the_ratings(folder: Path) -> None:
    scans = read_cat12(folder).scans
    marks = scans.loc[0, ["cat12_IQR", "cat12_NCR", "cat12_ICR", "cat12_res_RMS"]].tolist()
    assert marks == [1.97, 1.83, 1.46, 2.06]
    assert scans["cat12_version"].tolist() == ["1126", "1126"]


@pytest.mark.parametrize("written", ["[233.4 677.4 528.3]", "[233.4;677.4;528.3]", "233.4 677.4, 528.3"])
def test_vectors_are_read_however_matlab_writes_them(folder: Path, written: str) -> None:
    write(folder / "report" / "cat_sub-01_ses-1_T1w.xml", report(written))
    cohort = read_cat12(folder)
    found = values(cohort, "smri/cat12_volumes")
    assert found["vol_WM"] == pytest.approx(528.3)
    assert np.isnan(found["vol_WMH"]), "an older CAT12 does not look for them"
    assert any("1 of 2 scans lack features" in note for note in cohort.account.notes)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE S [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<S><subjectmeasures><vol_TIV>&b;</vol_TIV></subjectmeasures></S>
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "declares a document type"),
        (BOMB.replace("<!DOCTYPE S [", "").replace("]>", ""), "declares a document type"),
        (report()[:-20], "damaged or cut off"),
        ("", "damaged or cut off"),
        ("<S>\0</S>", "damaged or cut off"),
        (HEAD + "<S><error>failed</error></S>", "no subjectmeasures"),
        (report(total="NaN"), "vol_TIV is no volume"),
        (report(total="[1 2]"), "vol_TIV is no volume"),
        (report(volumes="[0 0 0]"), "vol_abs_CGW is not the volumes"),
        (report(volumes="[233.4 677.4]"), "vol_abs_CGW is not the volumes"),
        (report(volumes="[233.4 677.4 many]"), "not a number"),
        (report(volumes="[233.4 677.4 1e99]"), "infinite"),
        (report().replace("<vol_TIV>1439.12</vol_TIV>", ""), "vol_TIV is there 0 times"),
    ],
)
def test_a_report_that_cannot_be_trusted_costs_the_volumes_of_that_scan(
    folder: Path, text: str, said: str
) -> None:
    write(folder / "report" / "cat_sub-01_ses-1_T1w.xml", text)
    cohort = check_cohort(lambda: read_cat12(folder))
    ((who, reason),) = reasons(cohort).items()
    assert who == ("sub-01_ses-1", "smri/cat12_volumes")
    assert said in reason
    assert reason.startswith("cat_sub-01_ses-1_T1w.xml: ")
    assert cohort.sources["smri/cat12_volumes"].present.tolist() == [False, True]
    assert cohort.sources["smri/cat12_neuromorphometrics"].present.all()


def test_an_encoding_that_could_hide_a_declaration_is_refused(folder: Path) -> None:
    path = folder / "report" / "cat_sub-01_ses-1_T1w.xml"
    path.write_bytes(BOMB.replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"))
    assert "not UTF-8" in reasons(read_cat12(folder))["sub-01_ses-1", "smri/cat12_volumes"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (rois(Vgm="[1;2]"), "Vgm has 2 values for 3 regions"),
        (rois(("a", "a", "b")), "two have the same name"),
        (rois(("a", "", "b")), "not named"),
        (rois(Vgm="[1;two;3]"), "not a number"),
        (rois(Vother="[1;2;3]"), "none of Vgm"),
    ],
)
def test_a_roi_table_that_makes_no_sense_is_refused(folder: Path, text: str, said: str) -> None:
    write(folder / "label" / "catROI_sub-02_ses-1_T1w.xml", text)
    ((who, reason),) = reasons(check_cohort(lambda: read_cat12(folder))).items()
    assert who == ("sub-02_ses-1", "smri/cat12_neuromorphometrics")
    assert said in reason


def test_a_damaged_roi_file_does_not_cost_the_report(folder: Path) -> None:
    write(folder / "label" / "catROI_sub-02_ses-1_T1w.xml", rois()[:-5])
    cohort = read_cat12(folder)
    assert list(reasons(cohort)) == [("sub-02_ses-1", folder.name)]
    assert cohort.sources["smri/cat12_volumes"].present.all()


def test_what_is_not_read_is_said(folder: Path) -> None:
    write(folder / "label" / "catROIs_sub-01_ses-1_T1w.xml", rois())
    write(folder / "label" / "catROI_sub-01_ses-1_T1w.xml", rois(Vgm="[1;2;3]", Vodd="[1;2;3]"))
    notes = "\n".join(read_cat12(folder).account.notes)
    assert "1 files of ROIs on the surface (catROIs_*.xml) are not read" in notes
    assert "not read: neuromorphometrics/Vodd" in notes


def test_a_thickness_is_in_millimetres_and_one_that_nobody_has_is_left_out(folder: Path) -> None:
    for path in (folder / "label").iterdir():
        write(path, rois(Vgm="[3.1;3.2;0.01]", Tgm="[2.5;0;NaN]"))
    cohort = check_cohort(lambda: read_cat12(folder))
    modality = cohort.sources["smri/cat12_neuromorphometrics"].modality
    units = dict(zip(modality.features, modality.units, strict=True))
    assert units["lHip_GM_Thickness"] == "mm"
    assert "l3thVen_GM_Thickness" not in units
    assert any("1 features without a value in any scan are left out" in n for n in cohort.account.notes)


def test_two_files_of_one_scan_are_both_refused(folder: Path) -> None:
    write(folder / "again" / "cat_sub-01_ses-1_T1w.xml", report())
    write(folder / "report" / "cat_sub-02_ses-1_acq-b_T1w.xml", report())
    with pytest.raises(CohortError, match="none of the 2 scans"):
        read_cat12(folder)
    (folder / "report" / "cat_sub-02_ses-1_acq-b_T1w.xml").unlink()
    cohort = read_cat12(folder)
    assert cohort.scans["participant_id"].tolist() == ["02"]
    ((scan, _), reason) = next(iter(reasons(cohort).items()))
    assert scan == "sub-01_ses-1"
    assert "again/cat_sub-01_ses-1_T1w.xml" in reason


def test_people_are_met_by_their_ids_within_the_names(tmp_path: Path) -> None:
    for name in ("IXI002-Guys-0828-T1", "IXI012-HH-1211-T1"):
        write(tmp_path / "xml" / f"cat_{name}.xml", report())
    people = write(tmp_path / "people.csv", "participant_id,age\nIXI012,38.8\nIXI002,35.8\n")
    cohort = check_cohort(lambda: open_cohort(people, add=[parse_added(f"smri={tmp_path / 'xml'}")]))
    assert cohort.scans["participant_id"].tolist() == ["IXI012", "IXI002"]
    assert list(cohort.sources) == ["smri/cat12_volumes"]
    named = open_cohort(people, add=[parse_added(f"smri/vbm={tmp_path / 'xml'}")])
    assert list(named.sources) == ["smri/vbm_volumes"]
    with pytest.raises(UsageError, match="not fmri"):
        open_cohort(people, add=[parse_added(f"fmri={tmp_path / 'xml'}")])


def test_other_folders_are_not_cat12_s(tmp_path: Path) -> None:
    write(tmp_path / "dog_01.xml", "<S/>")
    write(tmp_path / "catROIs_01.xml", "<S/>")
    assert not is_cat12(tmp_path)
    assert not is_cat12(tmp_path / "nothing")
    assert is_cat12(write(tmp_path / "sub-01" / "anat" / "cat_sub-01_T1w.xml", report()).parents[2])


@pytest.mark.real
def test_the_real_report_and_roi_table(real_data: Path, tmp_path: Path) -> None:
    for path in (real_data / SAMPLES).glob("*.xml"):
        shutil.copy(path, tmp_path / re.sub(r"\.excerpt", "", path.name))
    cohort = check_cohort(lambda: open_cohort(tmp_path))
    assert cohort.scans["participant_id"].tolist() == ["IXI002-Guys-0828-T1"]
    found = values(cohort, "smri/cat12_volumes")
    assert found["vol_TIV"] == pytest.approx(1439.186, abs=1e-3)
    assert sum(found.values()) == pytest.approx(2 * found["vol_TIV"], rel=1e-5)
    assert cohort.scans["cat12_IQR"].tolist() == [1.97212245311552]
    atlas = cohort.sources["smri/cat12_lpba40"].modality
    assert len(atlas.features) == 56 + 48, "eight structures below the cortex have no thickness"
    assert values(cohort, "smri/cat12_lpba40")["lSupFroG_GM_Vol"] == pytest.approx(30.266925)
