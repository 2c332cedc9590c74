from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from battery import check_cohort
from freesurfer_trees import ASEG, DESIKAN, DKT, aparc_table, write_subject

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.freesurfer import is_freesurfer, read_freesurfer
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.errors import CohortError, UsageError
from hpc_brainage.modality import Modality

MEASURES = ("area", "volume", "thickness", "thicknessstd", "meancurv", "gauscurv", "foldind", "curvind")
WHOLE_HEMISPHERE = {f"{side}_{name}" for side in ("lh", "rh") for name in ("WhiteSurfArea_area",
                    "MeanThickness_thickness")}  # fmt: skip


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    folder = tmp_path / "freesurfer"
    for number, name in enumerate(("sub-01", "sub-02", "sub-03")):
        write_subject(folder / name, seed=number)
    return folder


def values(cohort: Cohort, key: str, row: int = 0) -> dict[str, float]:
    source = cohort.sources[key]
    return dict(zip(source.modality.features, source.load(row).tolist(), strict=True))


def reasons(cohort: Cohort) -> dict[tuple[str, str], str]:
    return {(refusal.scan, refusal.source): refusal.reason for refusal in cohort.account.refusals}


def units(modality: Modality) -> dict[str, str]:
    return dict(zip(modality.features, modality.units, strict=True))


def test_a_subjects_directory_is_a_cohort_of_unknown_ages(subjects: Path) -> None:
    cohort = check_cohort(lambda: open_cohort(subjects))
    assert cohort.name == "freesurfer"
    assert cohort.scans["participant_id"].tolist() == ["01", "02", "03"]
    assert cohort.scans["age"].isna().all()
    assert set(cohort.sources) == {f"smri/{name}" for name in
                                   ("aseg", "wmparc", "aparc", "aparc_a2009s", "aparc_dkt")}  # fmt: skip
    assert all(source.present.all() for source in cohort.sources.values())
    assert not cohort.account.refusals
    assert cohort.scans["lhSurfaceHoles"].tolist() == [5] * 3
    assert cohort.scans["lh_euler"].tolist() == [-8] * 3
    assert cohort.scans["rh_euler"].tolist() == [-12] * 3


def test_features_have_the_names_and_units_of_the_table_writers(subjects: Path) -> None:
    cohort = read_freesurfer(subjects)
    aparc = units(cohort.sources["smri/aparc"].modality)
    regions = {
        f"{side}_{region}_{measure}" for side in ("lh", "rh") for region in DESIKAN for measure in MEASURES
    }
    assert set(aparc) == regions | WHOLE_HEMISPHERE | {"BrainSegVolNotVent", "eTIV"}
    assert (aparc["lh_insula_area"], aparc["lh_insula_volume"]) == ("mm2", "mm3")
    assert aparc["lh_insula_thickness"] == aparc["lh_insula_thicknessstd"] == "mm"
    assert aparc["rh_cuneus_meancurv"] == ""
    assert (aparc["lh_WhiteSurfArea_area"], aparc["eTIV"]) == ("mm2", "mm3")
    assert set(units(cohort.sources["smri/aseg"].modality).items()) == {
        (name, "mm3")
        for name in (
            *ASEG,
            "BrainSegVol",
            "BrainSegVolNotVent",
            "CerebralWhiteMatterVol",
            "EstimatedTotalIntraCranialVol",
        )
    }
    assert units(cohort.sources["smri/wmparc"].modality) == {"wm-lh-cuneus": "mm3", "wm-rh-insula": "mm3"}


@pytest.mark.parametrize("version", ["5.3", "6.0", "7.0"])
def test_tables_and_subjects_directory_give_the_same_features_and_values(
    tmp_path: Path, version: str
) -> None:
    folder = tmp_path / "subjects"
    for number in range(3):
        write_subject(folder / f"sub-0{number}_ses-1", version, seed=number)
    add = []
    for atlas, name in (("aparc", "aparc"), ("aparc.a2009s", "aparc_a2009s")):
        for side in ("lh", "rh"):
            for measure in MEASURES:
                path = tmp_path / f"{side}.{atlas}.{measure}.txt"
                path.write_text(aparc_table(folder, side, atlas, measure))
                add.append(parse_added(f"smri/{name}={path}"))
    people = tmp_path / "participants.tsv"
    people.write_text(
        "participant_id\tsession_id\tage\n" + "".join(f"sub-0{i}\tses-1\t{20 + i}\n" for i in range(3))
    )
    tables = open_cohort(people, add=add)
    directory = open_cohort(people, add=[parse_added(f"smri={folder}")])
    for key in tables.sources:
        assert units(tables.sources[key].modality) == units(directory.sources[key].modality)
        for row in range(3):
            assert values(tables, key, row) == pytest.approx(values(directory, key, row))


def test_versions_side_by_side_have_one_name_for_one_structure(tmp_path: Path) -> None:
    for version in ("5.3", "6.0", "7.0"):
        write_subject(tmp_path / f"fs{version}", version)
    cohort = check_cohort(lambda: read_freesurfer(tmp_path))
    aseg = cohort.sources["smri/aseg"].modality.features
    assert "Left-Thalamus" in aseg
    assert not any("Proper" in name or "CorticalWhite" in name for name in aseg)
    assert all(np.isfinite(cohort.sources["smri/aseg"].load(row)).all() for row in range(3))
    destrieux = cohort.sources["smri/aparc_a2009s"].modality.features
    assert not any("&" in name for name in destrieux)
    assert np.isfinite(cohort.sources["smri/aparc_a2009s"].load(1)).all()
    assert np.isnan(values(cohort, "smri/aparc", 0)["eTIV"]), "5.3 does not write it there"
    assert values(cohort, "smri/aparc", 1)["eTIV"] == 1500000.5
    notes = "\n".join(cohort.account.notes)
    assert "have the newest names: Left-Thalamus-Proper is Left-Thalamus" in notes
    assert "aparc.DKTatlas.stats (2), aparc.DKTatlas40.stats (1)" in notes
    assert "1 of 3 scans lack features that others have" in notes


def test_fastsurfer_has_no_whole_brain_and_volumes_of_the_cortex(tmp_path: Path) -> None:
    write_subject(tmp_path / "sub-01", "fastsurfer")
    cohort = check_cohort(lambda: read_freesurfer(tmp_path))
    assert list(cohort.sources) == ["smri/aseg", "smri/aparc_dkt"]
    modality = cohort.sources["smri/aseg"].modality
    assert "ctx-lh-cuneus" in modality.features
    assert set(modality.units) == {"mm3"}
    assert "lh_euler" not in cohort.scans
    assert len(cohort.sources["smri/aparc_dkt"].modality.features) == 2 * (8 * len(DKT) + 2) + 2


def test_what_aseg_lacks_of_the_whole_brain_is_read_beside_it(tmp_path: Path) -> None:
    stats = write_subject(tmp_path / "sub-01", "fastsurfer") / "stats"
    (stats / "brainvol.stats").write_text("# Measure Mask, MaskVol, Mask Volume, 1600000.5, mm^3\n")
    assert values(read_freesurfer(tmp_path), "smri/aseg")["MaskVol"] == 1600000.5


def test_holes_are_found_in_the_log_where_the_statistics_do_not_say_them(tmp_path: Path) -> None:
    subject = write_subject(tmp_path / "sub-01", "fastsurfer")
    (subject / "scripts").mkdir()
    log = "orig.nofix lheno =  -10, rheno = -12\norig.nofix lhholes =    6, rhholes = 7\n"
    first_run = "orig.nofix lheno = -98, rheno = -99\n"
    (subject / "scripts" / "recon-all.log").write_text(first_run + log)
    found = read_freesurfer(tmp_path).scans.iloc[0]
    assert found[["lhSurfaceHoles", "rhSurfaceHoles", "SurfaceHoles"]].tolist() == [6, 7, 13]
    assert found[["lh_euler", "rh_euler"]].tolist() == [-10, -12]


def test_one_damaged_file_costs_that_modality_and_names_file_and_line(subjects: Path) -> None:
    path = subjects / "sub-02" / "stats" / "rh.aparc.stats"
    text = path.read_text()
    path.write_text(text[:-30])
    cohort = check_cohort(lambda: read_freesurfer(subjects))
    line = len(text.splitlines())
    (reason,) = reasons(cohort).values()
    assert list(reasons(cohort)) == [("sub-02", "smri/aparc")]
    assert reason.startswith(f"sub-02/stats/rh.aparc.stats, line {line}: ")
    assert cohort.sources["smri/aparc"].present.tolist() == [True, False, True]
    assert cohort.sources["smri/aseg"].present.all()


def test_one_hemisphere_is_not_taken_for_both(subjects: Path) -> None:
    (subjects / "sub-01" / "stats" / "lh.aparc.a2009s.stats").unlink()
    cohort = read_freesurfer(subjects)
    assert reasons(cohort) == {
        ("sub-01", "smri/aparc_a2009s"): "sub-01/stats/lh.aparc.a2009s.stats: the file is missing"
    }


def test_a_subject_without_statistics_is_refused(subjects: Path) -> None:
    (subjects / "sub-04" / "mri").mkdir(parents=True)
    (subjects / "sub-05" / "stats").mkdir(parents=True)
    cohort = read_freesurfer(subjects)
    assert len(cohort) == 3
    assert {scan for scan, _ in reasons(cohort)} == {"sub-04", "sub-05"}
    assert all("no statistics" in reason for reason in reasons(cohort).values())
    assert (cohort.account.sources[0].rows, cohort.account.sources[0].matched) == (5, 3)


def test_a_modality_that_a_subject_lacks_is_absent_and_no_fault(subjects: Path) -> None:
    (subjects / "sub-01" / "stats" / "wmparc.stats").unlink()
    cohort = read_freesurfer(subjects)
    assert cohort.sources["smri/wmparc"].present.tolist() == [False, True, True]
    assert not cohort.account.refusals


def test_templates_and_other_folders_are_no_people(subjects: Path) -> None:
    write_subject(subjects / "fsaverage")
    write_subject(subjects / "fsaverage5")
    (subjects / "lh.EC_average" / "label").mkdir(parents=True)
    (subjects / "logs").mkdir()
    (subjects / "readme.txt").write_text("hello")
    cohort = read_freesurfer(subjects)
    assert cohort.scans["participant_id"].tolist() == ["01", "02", "03"]
    notes = "\n".join(cohort.account.notes)
    assert "templates, which are no people: fsaverage, fsaverage5, lh.EC_average" in notes
    assert "folders that are no subjects of FreeSurfer: logs" in notes


def test_of_the_longitudinal_stream_the_time_points_are_scans(tmp_path: Path) -> None:
    for session in "12":
        write_subject(tmp_path / f"sub-01_ses-{session}", holes=(50, 50))
        write_subject(tmp_path / f"sub-01_ses-{session}.long.sub-01", holes=(1, 1))
    (write_subject(tmp_path / "sub-01") / "base-tps").write_text("sub-01_ses-1\nsub-01_ses-2\n")
    cohort = check_cohort(lambda: read_freesurfer(tmp_path))
    assert cohort.scans[["participant_id", "session_id"]].to_numpy().tolist() == [["01", "1"], ["01", "2"]]
    assert cohort.scans["lhSurfaceHoles"].tolist() == [1, 1]
    notes = "\n".join(cohort.account.notes)
    assert "bases of the longitudinal stream, which are no scans: sub-01" in notes
    assert "which is taken: sub-01_ses-1, sub-01_ses-2" in notes
    assert "side by side" not in notes


def test_two_folders_of_one_scan_are_both_refused(subjects: Path) -> None:
    shutil.copytree(subjects / "sub-01", subjects / "01")
    cohort = read_freesurfer(subjects)
    assert cohort.scans["participant_id"].tolist() == ["02", "03"]
    assert reasons(cohort) == {("sub-01", "freesurfer"): "several folders are this scan: 01, sub-01"}


def test_a_people_table_brings_the_ages(subjects: Path, tmp_path: Path) -> None:
    people = tmp_path / "participants.tsv"
    people.write_text("participant_id\tage\tsex\nsub-03\t33\tF\nsub-01\t31\tM\nsub-09\t39\tM\n")
    cohort = check_cohort(lambda: open_cohort(people, add=[parse_added(f"smri={subjects}")]))
    assert cohort.scans["participant_id"].tolist() == ["03", "01"]
    assert cohort.scans["age"].tolist() == [33, 31]
    assert values(cohort, "smri/aparc", 1) == values(read_freesurfer(subjects), "smri/aparc", 0)
    assert cohort.account.sources[1].only_here == (("02", "", ""),)
    assert cohort.scans["lh_euler"].tolist() == [-8, -8]
    named = open_cohort(people, add=[parse_added(f"smri/FS7={subjects}")])
    assert "smri/fs7_aparc" in named.sources


def test_sessions_in_the_names_of_participants_meet_too(tmp_path: Path) -> None:
    write_subject(tmp_path / "fs" / "sub-01_ses-2")
    people = tmp_path / "people.csv"
    people.write_text("participant_id,age\n01_ses-2,30\n")
    cohort = open_cohort(people, add=[parse_added(f"smri={tmp_path / 'fs'}")])
    assert cohort.scans["participant_id"].tolist() == ["01_ses-2"]


def test_a_measure_of_exactly_zero_is_missing(subjects: Path) -> None:
    path = subjects / "sub-01" / "stats" / "lh.aparc.stats"
    lines = path.read_text().splitlines()
    fields = lines[-1].split()
    fields[2:7] = ["0", "0", "0.000", "0.000", "0.000"]
    path.write_text("\n".join([*lines[:-1], " ".join(fields)]) + "\n")
    found = values(read_freesurfer(subjects), "smri/aparc")
    assert np.isnan([found[f"lh_insula_{measure}"] for measure in MEASURES[:3]]).all()
    assert found["lh_insula_meancurv"] == found["lh_insula_thicknessstd"] == 0
    assert values(read_freesurfer(subjects), "smri/aseg")["Left-vessel"] == 0


def test_one_subject_alone_is_a_cohort_of_one(subjects: Path) -> None:
    cohort = check_cohort(lambda: open_cohort(subjects / "sub-02"))
    assert cohort.scans["participant_id"].tolist() == ["02"]


def test_the_order_on_disk_means_nothing(subjects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_freesurfer(subjects)
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: sorted(listed(folder), reverse=True))
    second = read_freesurfer(subjects)
    assert first.scans.equals(second.scans)
    assert first.recipe == second.recipe
    assert values(first, "smri/aseg", 1) == values(second, "smri/aseg", 1)


def test_a_directory_that_cannot_be_used_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    stats = tmp_path / "sub-01" / "stats"
    stats.mkdir(parents=True)
    (stats / "aseg.stats").write_text("nothing\n")
    assert is_freesurfer(tmp_path)
    with pytest.raises(CohortError, match="none of the 1 scans") as error:
        open_cohort(tmp_path)
    assert "sub-01/stats/aseg.stats, line 1" in str(error.value)


def test_a_subjects_directory_among_bids_derivatives_is_read_as_one(subjects: Path) -> None:
    (subjects / "dataset_description.json").write_text('{"Name": "fs", "BIDSVersion": "1.8.0"}')
    (subjects / "participants.tsv").write_text("participant_id\tage\nsub-01\t20\n")
    for name in ("sub-01", "sub-02"):
        (subjects / name / "mri").mkdir()
        (subjects / name / "mri" / "T1.mgz").write_bytes(b"an image")
    assert len(open_cohort(subjects).sources["smri/aparc"].modality.features) == 54
    add = [parse_added(f"smri={subjects}")]
    assert "smri/aparc" in open_cohort(subjects / "participants.tsv", add=add).sources


def test_freesurfer_measures_structure(subjects: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not fmri"):
        open_cohort(subjects, reading=Reading(role="fmri"))
    people = tmp_path / "people.csv"
    people.write_text("participant_id,age\n01,30\n")
    with pytest.raises(UsageError, match="not fmri"):
        open_cohort(people, add=[parse_added(f"fmri={subjects}")])


def test_other_folders_are_not_freesurfer_s(tmp_path: Path) -> None:
    (tmp_path / "sub-01" / "stats").mkdir(parents=True)
    (tmp_path / "sub-01" / "stats" / "notes.stats").write_text("")
    assert not is_freesurfer(tmp_path)
    assert not is_freesurfer(tmp_path / "sub-01" / "stats" / "notes.stats")
    assert not is_freesurfer(tmp_path / "nothing")


@pytest.mark.real
def test_three_real_versions_side_by_side(real_data: Path) -> None:
    cohort = check_cohort(lambda: open_cohort(real_data / "format_samples" / "freesurfer_stats"))
    shapes = {
        key: (source.modality.shape[0], source.present.tolist()) for key, source in cohort.sources.items()
    }
    assert shapes == {
        "smri/aseg": (63, [True, False, True]),
        "smri/wmparc": (70, [True, False, True]),
        "smri/aparc": (550, [True, True, True]),
        "smri/aparc_a2009s": (1190, [True, True, True]),
    }
    assert {source for _, source in reasons(cohort)} == {"smri/aparc_dkt"}, "the samples lack a hemisphere"
    assert values(cohort, "smri/aseg", 0)["Left-Thalamus"] == pytest.approx(5247.8)
    assert values(cohort, "smri/aseg", 2)["Left-Thalamus"] == pytest.approx(8178.8)
    assert values(cohort, "smri/aparc_a2009s", 1)["lh_G_and_S_frontomargin_thickness"] == pytest.approx(
        2.164
    )
    assert cohort.scans["rh_euler"].fillna(0).tolist() == [-60, 0, -48]


@pytest.mark.real
def test_real_tables_have_the_names_that_the_subjects_directory_gives(real_data: Path) -> None:
    directory = open_cohort(real_data / "format_samples" / "freesurfer_stats").sources
    folder = real_data / "aomic_piop2_smri"
    add = [
        parse_added(f"smri/aparc={folder}/data-cortical_type-aparc_*.tsv"),
        parse_added(f"smri/aparc_a2009s={folder}/data-cortical_type-aparc.a2009s_*.tsv"),
        parse_added(f"smri/aseg={folder}/data-*measure-volume_hemi-both.tsv"),
    ]
    tables = open_cohort(folder / "participants.tsv", add=add).sources
    for key in ("smri/aparc", "smri/aparc_a2009s"):
        ours = {
            name: unit
            for name, unit in units(directory[key].modality).items()
            if not name.endswith(("thicknessstd", "gauscurv", "foldind", "curvind"))
        }
        assert units(tables[key].modality) == ours
    assert units(tables["smri/aseg"].modality) == units(directory["smri/aseg"].modality)
    abide = (
        open_cohort(real_data / "abide1" / "smri_freesurfer6.csv.gz").sources["smri/freesurfer6"].modality
    )
    every = {name: unit for source in directory.values() for name, unit in units(source.modality).items()}
    assert units(abide).items() <= every.items()
