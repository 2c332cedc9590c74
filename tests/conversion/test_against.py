"""`brainage verify --against`: whatever differs between a store and its source is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli.commands import Answer, type_command
from cohorts.nifti_files import AFFINE, voxels, write_image
from conversion.synthetic import cohort_of, features, measurements, people, surface, volume

from hpc_brainage.cohorts.cohort import Account, Cohort, ModalitySource, Refusal
from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.conversion.against import compare, open_again
from hpc_brainage.conversion.append import append
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import UsageError
from hpc_brainage.modality import ScaledIntegers, Stored
from hpc_brainage.store.reader import Store
from hpc_brainage.store.verify import Damage

SCANS = 12
TABLE, IMAGE, SURFACE = features(7), volume(), surface()


def cohort(**changed: np.ndarray) -> Cohort:
    """Three modalities, of which single scans were refused; `changed` values by modality name."""
    values = {m: changed.get(m.name, measurements(m, SCANS)) for m in (TABLE, IMAGE, SURFACE)}
    present = {"smri/vbm": np.arange(SCANS) != 2}
    return cohort_of(people(SCANS), values, present, {"smri/vbm": [4], "smri/table": [5]})


def store_of(some: Cohort, folder: Path) -> Store:
    return Store.open(convert(some, folder / "store.zarr").store_path)


def said(found: list[Damage]) -> list[tuple[str, str, int]]:
    return [(one.key, one.problem, len(one.scans)) for one in found]


def test_a_store_is_what_its_source_is_in_whatever_order(tmp_path: Path) -> None:
    store = store_of(cohort(), tmp_path)
    seen: list[tuple[int, int]] = []
    assert compare(store, [cohort()], lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (3 * SCANS, 3 * SCANS)
    shuffled = cohort().take(np.random.default_rng(0).permutation(SCANS))
    assert compare(store, [shuffled]) == []
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    turned = replace(TABLE, features=tuple(TABLE.features[i] for i in order))
    values = measurements(TABLE, SCANS)
    sources = cohort().sources | {
        "smri/table": cohort_of(
            people(SCANS), {turned: values[:, order]}, refuse={"smri/table": [5]}
        ).sources["smri/table"]
    }
    assert compare(store, [replace(cohort(), sources=sources)]) == []


@pytest.mark.parametrize("modality", [TABLE, IMAGE, SURFACE], ids=str)
def test_one_other_value_is_found_and_its_scan_named(tmp_path: Path, modality: object) -> None:
    store = store_of(cohort(), tmp_path)
    values = measurements(modality, SCANS).copy()  # type: ignore[arg-type]
    values[7].reshape(-1)[1] += 1e-3
    (found,) = compare(store, [cohort(**{modality.name: values})])  # type: ignore[attr-defined]
    assert (found.key, found.problem) == (modality.key, "the source has other values than the store")  # type: ignore[attr-defined]
    assert found.scans == ("sub-100000000003_ses-2",)


def test_cells_of_the_table_of_people_are_compared(tmp_path: Path) -> None:
    store = store_of(cohort(), tmp_path)
    scans = people(SCANS)
    scans.loc[3, "age"] += 0.5
    scans.loc[0, "age"] = 40.0
    scans.loc[4, "site"] = ""
    scans.loc[5, "fiq"] = "other"
    found = compare(store, [replace(cohort(), scans=scans)])
    assert said(found) == [
        (column, "the source says something else", count)
        for column, count in (("age", 2), ("site", 1), ("fiq", 1))
    ]
    without = replace(cohort(), scans=people(SCANS).drop(columns="FIQ"))
    assert said(compare(store, [without])) == [("FIQ", "the source says something else", 9)]
    as_text = replace(cohort(), scans=people(SCANS).assign(FIQ="high"))
    assert said(compare(store, [as_text])) == [("FIQ", "the source says something else", SCANS)]


def test_scans_that_only_one_of_them_has(tmp_path: Path) -> None:
    store = store_of(cohort().take(np.arange(10)), tmp_path)
    gone = ("scans", "in the store, and not in the source", 3)
    newer = ("scans", "in the source, and not in the store", 2)
    found = compare(store, [cohort().take(np.arange(3, SCANS))])
    assert said(found) == [newer, gone]
    assert "--append" in found[0].to_do
    refused = Account(refusals=(Refusal("100000000000", "1", "", "vbm", "the file is empty"),))
    now = replace(cohort().take(np.arange(1, SCANS)), account=refused)
    assert said(compare(store, [now])) == [
        newer,
        ("scans", "in the store, and not in the source: refused now (the file is empty)", 1),
    ]


def test_measurements_that_only_one_of_them_has(tmp_path: Path) -> None:
    store = store_of(cohort(), tmp_path)
    source = cohort().sources["smri/vbm"]
    present = source.present.copy()
    present[[2, 8]] = True, False
    other = replace(cohort(), sources=cohort().sources | {"smri/vbm": replace(source, present=present)})
    found = compare(store, [other])
    assert said(found) == [
        ("smri/vbm", "in the source, and not in the store", 1),
        ("smri/vbm", "in the store, and not in the source", 1),
    ]
    assert [one.scans for one in found] == [("sub-100000000001_ses-1",), ("sub-100000000004_ses-1",)]
    fewer = {key: one for key, one in cohort().sources.items() if key != "smri/xhemi"}
    assert said(compare(store, [replace(cohort(), sources=fewer)])) == [
        ("smri/xhemi", "in the store, and not in the source", SCANS)
    ]
    more = features(3, name="fc", role="fmri")
    further = cohort().sources | cohort_of(people(SCANS), {more: measurements(more, SCANS)}).sources
    assert said(compare(store, [replace(cohort(), sources=further)])) == [
        ("fmri/fc", "in the source, and not in the store", 0)
    ]


def test_what_was_refused_then_or_is_refused_now(tmp_path: Path) -> None:
    store = store_of(cohort(), tmp_path)
    values = {m: measurements(m, SCANS) for m in (TABLE, IMAGE, SURFACE)}
    values[IMAGE] = values[IMAGE].copy()
    values[IMAGE][9, 0, 0, 0] = np.inf
    present = {"smri/vbm": np.arange(SCANS) != 2}
    now = cohort_of(people(SCANS), values, present, {"smri/vbm": [7], "smri/table": [5]})
    assert said(compare(store, [now])) == [
        ("smri/vbm", "taken now, and refused when it was converted: is truncated; expected 1000 bytes", 1),
        ("smri/vbm", "refused now: is truncated; expected 1000 bytes", 1),
        ("smri/vbm", "refused now: holds infinite values, or values too large for float32", 1),
    ]

    def vanished(row: int) -> np.ndarray:
        raise FileNotFoundError(2, "No such file or directory", "/private/place")

    source = replace(cohort().sources["smri/xhemi"], load=vanished)
    gone = replace(cohort(), sources=cohort().sources | {"smri/xhemi": source})
    assert said(compare(store, [gone])) == [
        ("smri/xhemi", "cannot be read now (No such file or directory)", SCANS)
    ]


def test_another_measurement_of_the_same_name_is_said_and_not_compared(tmp_path: Path) -> None:
    store = store_of(cohort(), tmp_path)
    others = (features(6), volume((3, 4, 6)), surface(2, 7))
    other = cohort_of(people(SCANS), {m: measurements(m, SCANS) for m in others})
    found = compare(store, [other])
    assert [one.key for one in found] == ["smri/table", "smri/vbm", "smri/xhemi"]
    assert "lacks 1 features of the store (region 6) in the source" in found[0].problem
    assert "has grid (3, 4, 5) in the store, and (3, 4, 6) in the source" in found[1].problem
    assert all("no values were compared" in one.problem for one in found)


@pytest.mark.parametrize(("kept", "now"), [("int16", "int16"), ("int16", "float32"), ("float32", "int16")])
@pytest.mark.parametrize("slope", [1.0, 0.37, -2.0])
def test_integers_are_compared_with_whatever_the_source_gives(
    tmp_path: Path, kept: str, now: str, slope: float
) -> None:
    integers = np.random.default_rng(3).integers(-50, 200, (SCANS, *IMAGE.shape)).astype(np.int16)

    def source(numbers: str, change: int = 0) -> Cohort:
        def load(row: int) -> np.ndarray | ScaledIntegers:
            image = integers[row].copy()
            image[0, 0, 0] += change * (row == 6)
            scaled = ScaledIntegers(np.asfortranarray(image), slope, row)
            return scaled if numbers == "int16" else scaled.values()

        has = np.ones(SCANS, bool)
        only = ModalitySource(IMAGE, has, load, "", Stored(numbers, "zyx"))
        return Cohort("synthetic", people(SCANS), {IMAGE.key: only})

    store = store_of(source(kept), tmp_path)
    assert compare(store, [source(now)]) == []
    assert said(compare(store, [source(now, change=1)])) == [
        ("smri/vbm", "the source has other values than the store", 1)
    ]


def test_a_store_that_was_added_to_has_several_sources(tmp_path: Path) -> None:
    first, second = cohort().take(np.arange(8)), cohort().take(np.arange(6, SCANS))
    path = convert(first, tmp_path / "store.zarr").store_path
    append(second, path)
    store = Store.open(path)
    assert compare(store, [first, second]) == []
    assert said(compare(store, [first])) == [("scans", "in the store, and not in the source", 4)]


Typed = Callable[..., Answer]


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Typed]:
    """A table of people and regions with odd column names, and connectomes to be joined to it."""
    rng = np.random.default_rng(0)
    who = [f"P{number:02d}" for number in range(9)]
    people = pd.DataFrame(
        {
            "code": who,
            "months": rng.integers(200, 900, 9),
            "gender": rng.choice([1, 2], 9),
            "dx": ["TC"] * 7 + ["ASD"] * 2,
            **{f"lh_{name}_thickness": rng.normal(2.5, 0.2, 9).round(3) for name in ("insula", "cuneus")},
        }
    )
    people.to_csv(tmp_path / "people.csv", index=False)
    edges = pd.DataFrame(rng.normal(size=(9, 3)).round(4), columns=["A--B", "A--C", "B--C"])
    edges.insert(0, "code", who)
    edges.to_csv(tmp_path / "fc.csv", index=False)
    return tmp_path, lambda *words: type_command(tmp_path, *words)


READ = (
    "--id",
    "code",
    "--age",
    "months",
    "--age-unit",
    "months",
    "--sex",
    "gender",
    "--sex-codes",
    "1=M,2=F",
)


def test_the_command_reads_the_source_as_it_was_read_then(study: tuple[Path, Typed]) -> None:
    folder, brainage = study
    made = brainage(
        "convert", "people.csv", "s.zarr", *READ, "--add", "fmri/fc=fc.csv", "--where", "dx == 'TC'"
    )
    assert made.code == 0, made.text
    against = ("verify", "s.zarr", "--against", "people.csv", "--add", "fmri/fc=fc.csv")
    answer = brainage(*against)
    assert answer.code == 0, answer.text
    assert "every scan is as it was written" in answer.text
    assert "every scan is as it is in people" in answer.text

    table = pd.read_csv(folder / "people.csv")
    table.loc[2, "lh_insula_thickness"] += 0.1
    table.loc[3, "months"] += 1
    table.to_csv(folder / "people.csv", index=False)
    answer = brainage(*against)
    assert answer.code == 3
    assert "differences: 3" in answer.text  # the column of months is kept as well
    assert "sub-P02" in answer.text
    assert "sub-P03" in answer.text
    assert "if the source is right, convert it again with --overwrite" in answer.text

    forgotten = brainage("verify", "s.zarr", "--against", "people.csv")
    assert forgotten.code == 2
    assert "the same --add as of `brainage convert`" in forgotten.text


def test_a_folder_of_people_and_tables_brings_what_was_joined(study: tuple[Path, Typed]) -> None:
    folder, brainage = study
    people = pd.read_csv(folder / "people.csv")
    (folder / "cohort").mkdir()
    people[["code", "dx"]].to_csv(folder / "cohort" / "participants.csv", index=False)
    regions = people[["code", *(name for name in people if name.startswith("lh_"))]]
    regions.to_csv(folder / "cohort" / "smri_regions.csv", index=False)
    made = brainage("convert", "cohort", "c.zarr", "--id", "code")
    assert made.code == 0, made.text
    answer = brainage("verify", "c.zarr", "--against", "cohort")
    assert answer.code == 0, answer.text
    assert "every scan is as it is in cohort" in answer.text

    more = brainage("convert", "cohort", "more.zarr", "--id", "code", "--add", "fmri/fc=fc.csv")
    assert more.code == 0, more.text
    forgotten = brainage("verify", "more.zarr", "--against", "cohort")
    assert forgotten.code == 2
    assert "the same --add as of `brainage convert`" in forgotten.text
    assert brainage("verify", "more.zarr", "--against", "cohort", "--add", "fmri/fc=fc.csv").code == 0


def test_the_command_takes_a_recipe(study: tuple[Path, Typed]) -> None:
    folder, brainage = study
    (folder / "cohort.toml").write_text(
        'source = "people.csv"\noutput = "s.zarr"\nid = "code"\nage = "months"\nage_unit = "months"\n'
        'sex = "gender"\n[sex_codes]\n1 = "M"\n2 = "F"\n'
    )
    assert brainage("convert", "--recipe", "cohort.toml").code == 0
    assert brainage("verify", "s.zarr", "--recipe", "cohort.toml").code == 0
    for words in (
        ("--recipe", "cohort.toml", "--against", "people.csv"),
        ("--add", "fmri=fc.csv"),
    ):
        assert brainage("verify", "s.zarr", *words).code == 2


def test_images_that_changed_are_named_and_newer_ones_too(tmp_path: Path) -> None:
    for number in range(5):
        write_image(tmp_path / "t1w" / f"sub-{number}_T1w.nii.gz", voxels(number))
    assert type_command(tmp_path, "convert", "t1w", "s.zarr").code == 0
    assert type_command(tmp_path, "verify", "s.zarr", "--against", "t1w").code == 0
    whole = (tmp_path / "t1w" / "sub-1_T1w.nii.gz").read_bytes()
    (tmp_path / "t1w" / "sub-1_T1w.nii.gz").write_bytes(whole[:-60])
    write_image(tmp_path / "t1w" / "sub-2_T1w.nii.gz", voxels(77))
    write_image(tmp_path / "t1w" / "sub-3_T1w.nii.gz", voxels(3), AFFINE @ np.diag([2, 2, 2, 1]))
    write_image(tmp_path / "t1w" / "sub-8_T1w.nii.gz", voxels(8))
    answer = type_command(tmp_path, "verify", "s.zarr", "--against", "t1w")
    assert answer.code == 3
    store = Store.open(tmp_path / "s.zarr")
    found = {one.scans: one.problem for one in compare(store, open_again(store, [tmp_path / "t1w"]))}
    assert found[("sub-2",)] == "the source has other values than the store"
    assert found[("sub-8",)] == "in the source, and not in the store"
    assert found[("sub-1",)].startswith("refused now: ")
    assert found[("sub-3",)].startswith(
        "in the store, and not in the source: refused now (it is not on the grid"
    )
    assert len(found) == 4


@pytest.mark.parametrize(
    "reading",
    [
        Reading(),
        Reading(
            ColumnMap(id="who", age_unit="months", sex_codes={"1": "M"}),
            features="lh_*",
            connectivity="partial",
            role="fmri",
            entities="res=1",
            participants=("a", "1"),
            voxels="float32",
            resample="mni152-2mm",
        ),
    ],
    ids=["nothing said", "everything said"],
)
def test_how_a_source_was_read_is_recorded_and_read_back(reading: Reading) -> None:
    assert Reading.from_record(reading.describe("age > 3")) == reading


def test_images_whose_place_is_not_recorded_must_be_named_again() -> None:
    for reading in (Reading(atlas=Path("somewhere/slabs.nii.gz")), Reading(resample="somewhere/grid.nii")):
        with pytest.raises(
            UsageError, match=r"with the image (slabs.nii.gz|grid.nii), and nobody recorded"
        ):
            Reading.from_record(reading.describe())


def test_a_record_of_something_else_is_refused() -> None:
    for record in (
        {"features": 3},
        {"participant_label": [3]},
        {"sex_codes": {"1": 2}},
        {"voxels": "int7"},
    ):
        with pytest.raises(UsageError):
            Reading.from_record(record)


@pytest.mark.real
def test_real_tables_and_connectomes_are_what_they_were(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "abide1"
    add = [
        parse_added(f"smri={folder / 'smri_freesurfer6.csv.gz'}"),
        parse_added(f"fmri/fc={folder / 'fmri_fc_ho111_fisherz.npz'}"),
    ]
    reading = Reading(ColumnMap(id="file_id"))
    made = open_cohort(folder / "participants.csv", reading=reading, add=add, where="dx == 'TC'")
    store = store_of(made, tmp_path)
    sources = open_again(store, [folder / "participants.csv"], add)
    assert len(sources[0]) == store.n_scans == 421
    assert compare(store, sources) == []
    source = sources[0].sources["smri/freesurfer6"]

    def changed(row: int) -> np.ndarray:
        values = source.values(row)
        return values * np.float32(1 + 1e-6) if row == 100 else values

    sources[0].sources["smri/freesurfer6"] = replace(source, load=changed)
    (found,) = compare(store, sources)
    assert len(found.scans) == 1


@pytest.mark.real
def test_real_images_are_what_they_were(real_data: Path, tmp_path: Path) -> None:
    store = store_of(open_cohort(real_data / "nifti_samples"), tmp_path)
    assert compare(store, open_again(store, [real_data / "nifti_samples"])) == []
