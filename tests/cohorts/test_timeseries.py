"""Folders of ROI time series: what is recognised, whose it is, what is refused, and the edges."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from battery import check_cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts import connectivity
from hpc_brainage.cohorts.series_file import read_series, series_identities
from hpc_brainage.cohorts.timeseries import is_timeseries, read_timeseries
from hpc_brainage.errors import CohortError, ScanRefused, UsageError

LABELS = ("10", "11", "2001", "3455")


def series(seed: int, volumes: int = 60, rois: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(volumes, 1)) + 2 * rng.normal(size=(volumes, rois))


def write(
    path: Path, values: np.ndarray, header: str | None = "hash", separator: str = "\t", end: str = "\n"
) -> Path:
    """A text file of time series; `header` is "hash" (AFNI), "plain" or None."""
    labels = LABELS[: values.shape[1]]
    mark = "#" if header == "hash" else ""
    lines = [] if header is None else [separator.join(mark + label for label in labels)]
    lines += [separator.join(f"{number:.6f}" for number in row) for row in values]
    raw = (end.join(lines) + end).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for person in range(5):
        write(tmp_path / "series" / f"NYU_005{person}_rois_ho.1D.gz", series(person))
    return tmp_path / "series"


def test_a_folder_of_series_is_a_cohort_of_edges(folder: Path) -> None:
    assert is_timeseries(folder)
    cohort = check_cohort(lambda: read_timeseries(folder))
    assert cohort.scans["participant_id"].tolist() == [f"NYU_005{person}" for person in range(5)]
    assert cohort.scans["age"].isna().all()
    (source,) = cohort.sources.values()
    assert source.modality.key == "fmri/fc"
    assert source.modality.features == (
        "10--11",
        "10--2001",
        "10--3455",
        "11--2001",
        "11--3455",
        "2001--3455",
    )
    expected = np.arctanh(np.corrcoef(series(3).T)[np.triu_indices(4, 1)])
    np.testing.assert_allclose(source.load(3), expected, atol=1e-5)
    assert not cohort.account.notes
    assert not cohort.account.refusals


@pytest.mark.parametrize("separator", ["\t", ",", ";", " ", "   "])
@pytest.mark.parametrize("header", ["hash", "plain", None])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_spelling_of_a_text_file_is_read(tmp_path: Path, separator: str, header, end: str) -> None:
    path = write(tmp_path / "scan.txt", series(0), header, separator, end)
    read = read_series(path)
    assert read.labels == (LABELS if header else ("roi001", "roi002", "roi003", "roi004"))
    np.testing.assert_allclose(read.values, series(0), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    volumes=st.integers(2, 30),
    rois=st.integers(2, 8),
    seed=st.integers(0, 1000),
    names=st.sampled_from(["words", "numbers", "none"]),
)
def test_what_pandas_writes_is_read_back(tmp_path_factory, volumes, rois, seed, names) -> None:
    values = np.random.default_rng(seed).normal(size=(volumes, rois)) + 0.5
    path = tmp_path_factory.mktemp("pandas") / "scan.csv"
    columns = [f"ROI {i}" for i in range(rois)] if names == "words" else list(range(rois))
    header = names != "none"
    pd.DataFrame(values, columns=columns).to_csv(path, index=False, header=header)
    read = read_series(path)
    assert read.values.shape == (volumes, rois)
    np.testing.assert_allclose(read.values, values, rtol=1e-12)
    if header:
        assert read.labels == tuple(str(column) for column in columns)


def test_afni_comments_before_the_data_are_no_volumes(tmp_path: Path) -> None:
    path = tmp_path / "scan.1D"
    path.write_text("# made by 3dROIstats\n# Left-Amygdala  Right-Amygdala\n 1.5  2\n 2.5  3\n")
    read = read_series(path)
    assert read.labels == ("Left-Amygdala", "Right-Amygdala")
    assert read.values.tolist() == [[1.5, 2.0], [2.5, 3.0]]
    path.write_text("# made by someone in 2014\n1 2\n3 4\n")
    assert read_series(path).labels == ("roi001", "roi002")


@pytest.mark.parametrize("suffix", [".npy", ".npy.gz"])
def test_numpy_files_keep_their_precision(tmp_path: Path, suffix: str) -> None:
    values = 10_000 + 0.05 * series(0)  # float32 has steps of 0.001 here
    buffer = io.BytesIO()
    np.save(buffer, values)
    raw = buffer.getvalue()
    for name in ("a", "b"):
        content = gzip.compress(raw) if suffix.endswith(".gz") else raw
        (tmp_path / f"{name}_ts{suffix}").write_bytes(content)
    assert is_timeseries(tmp_path)
    cohort = check_cohort(lambda: read_timeseries(tmp_path))
    assert cohort.scans["participant_id"].tolist() == ["a", "b"]
    np.testing.assert_allclose(
        cohort.sources["fmri/fc"].load(0), connectivity.pearson(series(0)), atol=1e-6
    )


def test_bids_names_say_participant_session_and_run(tmp_path: Path) -> None:
    for name in ("sub-01_ses-a_task-rest_run-1", "sub-01_ses-a_task-rest_run-2", "sub-02_task-rest"):
        path = tmp_path / name.split("_")[0] / "func" / f"{name}_atlas-X_timeseries.tsv"
        write(path, series(len(name)), "plain")
        write(path.with_name(f"{name}_desc-confounds_timeseries.tsv"), series(1, rois=2), "plain")
        path.with_name(f"{name}_events.tsv").write_text("onset\tduration\n0\t1\n")
    assert is_timeseries(tmp_path)
    scans = check_cohort(lambda: read_timeseries(tmp_path)).scans
    identity = scans[["participant_id", "session_id", "run"]]
    assert identity.to_numpy().tolist() == [["01", "a", "1"], ["01", "a", "2"], ["02", "", ""]]


def test_a_folder_of_confounds_only_holds_no_series(tmp_path: Path) -> None:
    write(tmp_path / "sub-01_task-rest_desc-confounds_timeseries.tsv", series(1), "plain")
    assert not is_timeseries(tmp_path)
    with pytest.raises(CohortError, match="no ROI time series"):
        read_timeseries(tmp_path)


def test_known_ids_are_recognised_in_file_names() -> None:
    files = [Path(name) for name in ("51.1D", "51_rest.1D", "51_b_rest.1D", "512_rest.1D", "x51.1D")]
    found = [participant for participant, _, _ in series_identities(files, ["51", "51_b", "5"])]
    assert found == ["51", "51", "51_b", "512_rest", "x51"]


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (["a_rois_ho", "b_rois_ho"], ["a", "b"]),
        (["a11_x", "b11_x"], ["a11", "b11"]),  # the 11 is of the ids, not of the ending
        (["a11", "b11"], ["a11", "b11"]),
        (["only_one"], ["only_one"]),
        (["x", "a_x"], ["x", "a_x"]),
    ],
)
def test_the_ending_that_all_files_share_is_no_identity(stems, expected) -> None:
    files = [Path(f"{stem}.1D") for stem in stems]
    assert [participant for participant, _, _ in series_identities(files)] == expected


def test_globs_lists_and_single_files_are_read_too(folder: Path) -> None:
    assert is_timeseries(folder / "*_0050*.1D.gz") or is_timeseries(folder / "*.1D.gz")
    whole = read_timeseries(folder)
    by_glob = read_timeseries(folder / "*.1D.gz")
    by_list = read_timeseries(sorted(folder.iterdir()))
    for cohort in (by_glob, by_list):
        pd.testing.assert_frame_equal(cohort.scans, whole.scans)
    one = read_timeseries(folder / "NYU_0050_rois_ho.1D.gz", known_ids=["NYU_0050"])
    assert one.scans["participant_id"].tolist() == ["NYU_0050"]


def test_two_files_of_one_scan_are_an_error(tmp_path: Path) -> None:
    for atlas in ("A", "B"):
        write(tmp_path / f"sub-01_atlas-{atlas}_timeseries.tsv", series(0), "plain")
    with pytest.raises(CohortError, match="two files are the same scan, sub-01") as error:
        read_timeseries(tmp_path)
    assert "glob" in str(error.value)


def test_tables_of_people_and_features_are_no_series(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.csv", "b.csv"):
        frame = pd.DataFrame({"subject": range(60), "age": rng.normal(30, 5, 60), "x": rng.normal(size=60)})
        frame.to_csv(tmp_path / name, index=False)
    assert not is_timeseries(tmp_path)
    assert not is_timeseries(tmp_path / "a.csv")
    assert not is_timeseries(tmp_path / "absent")


def test_a_folder_with_people_is_not_read_without_them(folder: Path) -> None:
    (folder / "participants.tsv").write_text("participant_id\tage\nNYU_0050\t20\n")
    assert not is_timeseries(folder)
    assert is_timeseries(folder / "*.1D.gz")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda raw: raw[: len(raw) // 2], "cannot be read to its end"),
        (lambda raw: gzip.compress(b""), "no volumes"),
        (lambda raw: gzip.compress(b"#10\t#11\t#2001\t#3455\n"), "no volumes"),
        (lambda raw: gzip.compress(b"10\tb\t2001\t3455\n"), "labels and no volumes"),
        (
            lambda raw: gzip.compress(gzip.decompress(raw).replace(b"#11", b"#10")),
            "two ROIs are named '10'",
        ),
    ],
)
def test_a_broken_file_is_refused_and_the_others_go_on(folder: Path, spoil, reason: str) -> None:
    path = folder / "NYU_0052_rois_ho.1D.gz"
    path.write_bytes(spoil(path.read_bytes()))
    cohort = check_cohort(lambda: read_timeseries(folder))
    assert len(cohort) == 4
    (refusal,) = cohort.account.refusals
    assert refusal.participant_id == "NYU_0052"
    assert reason in refusal.reason
    expected = connectivity.pearson(read_series(folder / "NYU_0053_rois_ho.1D.gz").values)
    np.testing.assert_array_equal(cohort.sources["fmri/fc"].load(2), expected)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("abc", "volume 4, column 2 is 'abc', not a number"),
        ("nan", "first in volume 4, ROI 11"),
        ("n/a", "first in volume 4, ROI 11"),
        ("", "first in volume 4, ROI 11"),
        ("-inf", "first in volume 4, ROI 11"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_by_its_place(folder: Path, cell: str, reason: str) -> None:
    path = folder / "NYU_0051_rois_ho.1D.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    cells = lines[4].split("\t")
    lines[4] = "\t".join([cells[0], cell, *cells[2:]])
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    (refusal,) = read_timeseries(folder).account.refusals
    assert reason in refusal.reason


def test_a_ragged_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.1D"
    path.write_text("1.5 2.5\n1 2\n1 2 3\n")
    with pytest.raises(ScanRefused, match="not readable as ROI time series"):
        read_series(path)
    path.write_text("1.5 2.5\n1\n1 2\n")
    with pytest.raises(ScanRefused, match="missing"):
        read_series(path)


def test_a_column_of_row_numbers_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "scan.csv"
    pd.DataFrame(series(0), columns=list(LABELS)).to_csv(path)
    with pytest.raises(ScanRefused, match="column 1 has no name") as refused:
        read_series(path)
    assert "index=False" in str(refused.value)


@pytest.mark.parametrize("start", [0, 1])
def test_a_column_that_counts_the_volumes_is_no_roi(tmp_path: Path, start: int) -> None:
    for person in ("a", "b"):
        table = pd.DataFrame(series(1), columns=list("ABCD"))
        table.insert(0, "volume", range(start, start + len(table)))
        table.to_csv(tmp_path / f"sub-{person}_timeseries.tsv", sep="\t", index=False)
    with pytest.raises(CohortError, match="can be used") as error:
        read_timeseries(tmp_path)
    assert "column volume counts the volumes and is no ROI" in str(error.value)


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(CohortError, match="none of the 1 files") as error:
        read_timeseries(tmp_path)
    assert "pickled" in str(error.value)


def test_too_few_volumes_are_refused(folder: Path) -> None:
    write(folder / "NYU_0051_rois_ho.1D.gz", series(1, volumes=39))
    write(folder / "NYU_0052_rois_ho.1D.gz", series(2, volumes=40))
    cohort = read_timeseries(folder)
    (refusal,) = cohort.account.refusals
    assert refusal.participant_id == "NYU_0051"
    assert refusal.reason == "39 volumes are too few: at least 40 are needed"


def test_other_rois_than_most_files_have_are_refused(folder: Path) -> None:
    write(folder / "NYU_0050_rois_ho.1D.gz", series(0, rois=3))
    path = folder / "NYU_0054_rois_ho.1D.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"#11", b"#12")))
    cohort = check_cohort(lambda: read_timeseries(folder))
    reasons = {refusal.participant_id: refusal.reason for refusal in cohort.account.refusals}
    assert reasons == {
        "NYU_0050": "it has 3 ROIs, most files have 4",
        "NYU_0054": "its ROIs are others: column 2 is 12, in most files 11",
    }


def test_files_on_their_side_are_an_error(tmp_path: Path) -> None:
    for person in range(3):
        write(tmp_path / f"{person}.1D", np.random.default_rng(0).normal(size=(50, 60 + person)), None)
    with pytest.raises(CohortError, match="60 to 62 columns but all have 50 rows"):
        read_timeseries(tmp_path)


def test_dead_rois_are_missing_and_counted(folder: Path) -> None:
    for person in (1, 3):
        values = series(person)
        values[:, 3] = 0
        if person == 3:
            values[:, 0] = 7.5
        write(folder / f"NYU_005{person}_rois_ho.1D.gz", values)
    cohort = check_cohort(lambda: read_timeseries(folder))
    source = cohort.sources["fmri/fc"]
    assert np.isnan(source.load(1)).tolist() == [False, False, True, False, True, True]
    assert np.isnan(source.load(3)).sum() == 5
    (note,) = cohort.account.notes
    assert "in 2 of 5 scans a ROI has no signal" in note
    assert "ROIs concerned: 2; most often 3455 in 2, 10 in 1" in note


def test_a_scan_without_two_live_rois_is_refused_and_a_roi_dead_everywhere_is_noted(folder: Path) -> None:
    for person in range(5):
        values = series(person)
        values[:, 2] = 0
        if person == 4:
            values[:, :2] = 0
        write(folder / f"NYU_005{person}_rois_ho.1D.gz", values)
    cohort = read_timeseries(folder)
    assert [refusal.reason for refusal in cohort.account.refusals] == ["3 of 4 ROIs have no signal"]
    assert any("no scan has a signal in ROI 2001" in note for note in cohort.account.notes)


def test_kinds_of_connectivity_never_share_an_edge_name(folder: Path) -> None:
    names = {}
    for kind in ("pearson", "partial", "tangent"):
        cohort = check_cohort(lambda kind=kind: read_timeseries(folder, kind=kind))
        names[kind] = cohort.sources["fmri/fc"].modality.features
        assert np.isfinite(cohort.sources["fmri/fc"].load(0)).all()
    assert names["pearson"][0] == "10--11"
    assert names["partial"][0] == "partial:10--11"
    assert names["tangent"][0].startswith("tangent-")
    (folder / "NYU_0054_rois_ho.1D.gz").unlink()
    other = read_timeseries(folder, kind="tangent").sources["fmri/fc"].modality.features
    assert not set(other) & set(names["tangent"])  # another group, another reference
    with pytest.raises(UsageError, match="covariance") as error:
        read_timeseries(folder, kind="covariance")  # type: ignore[arg-type]
    assert "pearson" in str(error.value)


def test_tangent_leaves_out_rois_that_are_often_dead_and_refuses_scans_where_others_are(
    tmp_path: Path,
) -> None:
    for person in range(12):
        values = series(person)
        if person < 2:
            values[:, 3] = 0  # dead in 17 %
        if person == 5:
            values[:, 1] = 0  # dead in 8 %
        write(tmp_path / f"p{person:02d}_ts.1D", values)
    cohort = check_cohort(lambda: read_timeseries(tmp_path, kind="tangent"))
    assert len(cohort) == 11
    (refusal,) = cohort.account.refusals
    assert refusal.participant_id == "p05"
    assert "ROI 11 has no signal" in refusal.reason
    names = [name.partition(":")[2] for name in cohort.sources["fmri/fc"].modality.features]
    assert names == ["10--11", "10--2001", "11--2001"]
    assert "WARNING: the reference of the tangent space is fitted on all 11" in cohort.account.notes[0]
    assert "more than 10% of the scans are left out: 3455" in cohort.account.notes[1]


def test_tangent_of_one_scan_is_an_error(folder: Path) -> None:
    with pytest.raises(CohortError, match="no group"):
        read_timeseries(folder / "NYU_0050*", kind="tangent")


def test_a_file_that_changes_after_opening_is_refused(folder: Path) -> None:
    cohort = read_timeseries(folder)
    write(folder / "NYU_0050_rois_ho.1D.gz", series(0, rois=3))
    with pytest.raises(ScanRefused, match="changed"):
        cohort.sources["fmri/fc"].load(0)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    assert not is_timeseries(tmp_path)
    with pytest.raises(CohortError, match="no ROI time series"):
        read_timeseries(tmp_path)


@pytest.mark.real
def test_abide_series_give_the_edges_that_were_published_for_them(real_data: Path) -> None:
    published = np.load(real_data / "abide1" / "fmri_fc_ho111_fisherz.npz", allow_pickle=False)
    ids = [str(name) for name in published["file_id"]]
    roi = [str(label) for label in published["roi_id"]]
    names = [f"{roi[i]}--{roi[j]}" for i, j in zip(published["edge_i"], published["edge_j"], strict=True)]
    folder = real_data / "abide1" / "timeseries_sample"
    cohort = check_cohort(lambda: read_timeseries(folder, known_ids=ids))
    source = cohort.sources["fmri/fc"]
    assert len(cohort) == 26
    assert not cohort.account.refusals
    assert list(source.modality.features) == names
    for row, participant in enumerate(cohort.scans["participant_id"]):
        theirs = published["fc_z"][ids.index(participant)]
        np.testing.assert_array_equal(source.load(row).astype(np.float16), theirs)
    (note,) = cohort.account.notes  # the spurious label has no voxel in one of these people
    assert "in 1 of 26 scans" in note
    assert "3455 in 1" in note
    assert read_timeseries(folder).scans["participant_id"].tolist() == list(cohort.scans["participant_id"])


@pytest.mark.real
def test_abide_series_give_partial_and_tangent_connectivity(real_data: Path) -> None:
    few = sorted((real_data / "abide1" / "timeseries_sample").glob("*.1D.gz"))[:4]
    partial = read_timeseries(few, kind="partial").sources["fmri/fc"]
    tangent = read_timeseries(few, kind="tangent").sources["fmri/fc"]
    # the third person lacks ROI 3455: missing there, or left out for all since that is a quarter
    assert partial.modality.shape == (111 * 110 // 2,)
    assert tangent.modality.shape == (110 * 109 // 2,)
    assert np.isnan(partial.load(2)).sum() == 110
    assert not any("3455" in name for name in tangent.modality.features)
    for row in range(4):
        assert np.isfinite(tangent.load(row)).all()
        assert np.nanmax(np.abs(partial.load(row))) < 1


@pytest.mark.real
def test_a_csv_of_named_rois_is_one_scan(real_data: Path) -> None:
    path = real_data / "nifti_samples" / "fmri_timeseries.csv"
    read = read_series(path)
    assert read.values.shape == (250, 31)
    assert read.labels[:3] == ("WM", "Vent", "Brain")
    assert read_timeseries(path).scans["participant_id"].tolist() == ["fmri_timeseries"]


@pytest.mark.real
def test_other_real_folders_are_not_taken_for_time_series(real_data: Path) -> None:
    for name in ("abide1", "aomic_piop2_smri", "fcon1000_smri", "ixi_smri", "format_samples/fmriprep"):
        assert not is_timeseries(real_data / name), name


def test_an_array_without_volumes_is_refused_before_its_rois_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.empty((0, 10**9), np.float32))
    with pytest.raises(ScanRefused, match="no volumes"):
        read_series(tmp_path / "a.npy")


def test_a_refusal_for_an_unreadable_series_does_not_hold_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.1D").mkdir()
    with pytest.raises(ScanRefused) as refusal:
        read_series(tmp_path / "a.1D")
    assert refusal.value.what == "the file cannot be read to its end (Is a directory)"


def test_a_roi_without_any_value_is_dead_and_one_with_gaps_is_refused(tmp_path: Path) -> None:
    for person in range(3):
        write(tmp_path / "series" / f"p{person}.1D", series(person))
    path = tmp_path / "series" / "p1.1D"
    lines = path.read_text().splitlines()
    dead = [
        lines[0],
        *("\t".join([line.split("\t")[0], "n/a", *line.split("\t")[2:]]) for line in lines[1:]),
    ]
    path.write_text("\n".join(dead))
    cohort = read_timeseries(tmp_path / "series")
    assert len(cohort) == 3
    assert np.isnan(cohort.sources["fmri/fc"].load(1)).sum() == 3
    path.write_text("\n".join([*dead[:-1], lines[-1]]))
    assert [
        refusal.participant_id for refusal in read_timeseries(tmp_path / "series").account.refusals
    ] == ["p1"]


def test_a_file_name_that_is_no_text_is_refused_with_a_word(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.1D", series(i)) for i, name in enumerate(("a", "b\udcff"))]
    with pytest.raises(CohortError, match="characters that are no text") as error:
        read_timeseries(files)
    assert "b\\udcff" in str(error.value)
    str(error.value).encode()


def test_damaged_first_files_do_not_hide_a_folder_of_series(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / "sub-00.npy").write_bytes(b"cut off")
    np.save(tmp_path / "sub-01.npy", np.full((60, 4), np.nan))
    for i in (2, 3, 4):
        np.save(tmp_path / f"sub-0{i}.npy", draw.normal(size=(60, 4)))
    assert is_timeseries(tmp_path)
    cohort = read_timeseries(tmp_path)
    assert len(cohort) == 3
    assert {refusal.participant_id for refusal in cohort.account.refusals} == {"00", "01"}
