"""The simulated cohort: reproducible, in OpenBHB's layout, and with an age signal that can be learnt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from battery import check_cohort

from hpc_brainage.cohorts import simulation
from hpc_brainage.cohorts.openbhb import is_openbhb, read_openbhb
from hpc_brainage.cohorts.simulated_people import EXTERNAL_SCANNERS, TRAIN_SCANNERS, draw_people
from hpc_brainage.cohorts.simulation import simulate_openbhb
from hpc_brainage.errors import UsageError

COLUMNS = (
    "participant_id study sex age site diagnosis tiv csfv gmv wmv magnetic_field_strength "
    "acquisition_setting siteXacq split"
)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_openbhb(tmp_path_factory.mktemp("simulated") / "openbhb").folder


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_people(tmp_path: Path) -> None:
    first, again, other = (
        simulate_openbhb(tmp_path / name, scans=30, seed=seed, volumes=2, grid=(8, 9, 10))
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    assert contents(first.folder) == contents(again.folder)
    ids = [
        pd.read_csv(each.folder / "participants.tsv", sep="\t").participant_id for each in (first, other)
    ]
    assert not set(ids[0]) & set(ids[1])


def test_it_is_a_cohort_in_openbhbs_layout(folder: Path) -> None:
    assert is_openbhb(folder)
    cohort = check_cohort(lambda: read_openbhb(folder), loads=3)
    assert len(cohort) == 240
    assert not cohort.account.refusals
    assert not cohort.account.notes
    present = {key: int(source.present.sum()) for key, source in cohort.sources.items()}
    assert present == {
        "smri/vbm_roi": 240,
        "smri/desikan_roi": 240,
        "smri/destrieux_roi": 240,
        "smri/cat12vbm": 12,
        "smri/quasiraw": 12,
    }
    volume = cohort.sources["smri/quasiraw"].modality
    assert volume.shape == (24, 28, 24)
    assert volume.affine is not None
    assert cohort.scans["age"].between(6, 88).all()
    assert {"siteXacq", "reconall-euler", "tiv"} <= set(cohort.scans.columns)


def test_participants_have_openbhbs_columns_splits_and_sites(folder: Path) -> None:
    raw = pd.read_csv(folder / "participants.tsv", sep="\t", dtype={"participant_id": str})
    assert list(raw.columns) == COLUMNS.split()
    assert raw["participant_id"].str.fullmatch(r"\d{12}").all()
    assert raw["participant_id"].is_unique
    train, internal, external = (
        set(raw.loc[raw["split"] == split, "siteXacq"])
        for split in ("train", "internal_test", "external_test")
    )
    assert internal <= train
    assert external
    assert not external & train
    assert len(train) == TRAIN_SCANNERS
    assert len(external) <= EXTERNAL_SCANNERS
    assert raw["site"].isna().any()


def test_ages_have_the_shape_of_openbhbs() -> None:
    people = draw_people(20_000, seed=1)
    age = people["age"]
    assert age.min() == pytest.approx(6, abs=0.2)
    assert age.max() == pytest.approx(88, abs=0.2)
    assert age.median() < age.mean()  # mostly students, and a long tail
    assert 12 < (age - age.mean()).abs().mean() < 15
    gap_of_old = people.loc[age > 60, "shared_gap"].std()
    assert gap_of_old > 1.5 * people.loc[age < 25, "shared_gap"].std()
    assert abs(np.corrcoef(people["shared_gap"], people["structural_gap"])[0, 1]) < 0.03


def test_a_linear_model_learns_age_from_either_modality(folder: Path) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    def mae(features: np.ndarray, age: np.ndarray, train: np.ndarray) -> float:
        scaler = StandardScaler().fit(features[train])
        model = Ridge(alpha=300.0).fit(scaler.transform(features[train]), age[train])
        return float(np.abs(model.predict(scaler.transform(features[~train])) - age[~train]).mean())

    cohort = read_openbhb(folder)
    train = np.arange(len(cohort)) % 4 > 0
    age = cohort.scans["age"].to_numpy()
    desikan = cohort.sources["smri/desikan_roi"]
    structural = mae(np.stack([desikan.load(row) for row in range(len(cohort))]), age, train)
    side = pd.read_csv(folder / "connectomes.tsv", sep="\t", dtype={"participant_id": str})
    assert len(side) == 192
    assert list(side.columns[1:3]) == ["roi001--roi002", "roi001--roi003"]
    age_of = dict(zip(cohort.scans["participant_id"], age, strict=True))
    side_age = side["participant_id"].map(age_of).to_numpy()
    edges = side.drop(columns="participant_id").to_numpy()
    functional = mae(edges, side_age, np.arange(len(side)) % 4 > 0)
    chance = float(np.abs(age[~train] - age[train].mean()).mean())
    assert 10 < chance < 18
    assert 3 < structural < 7
    assert 3 < functional < 9


def test_the_shared_gap_shows_in_both_modalities(folder: Path) -> None:
    """What an age regression leaves in sMRI and in fMRI correlates with the gap that was planted."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cohort = read_openbhb(folder)
    truth = pd.read_csv(folder / "planted_truth.tsv", sep="\t", dtype={"participant_id": str})
    assert (truth["participant_id"] == cohort.scans["participant_id"]).all()
    roi = cohort.sources["smri/vbm_roi"]
    features = np.stack([roi.load(row) for row in range(len(cohort))])
    age = cohort.scans["age"].to_numpy()
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(1, 4, 7)))
    residual = cross_val_predict(model, features, age, cv=5) - age
    planted = (truth["shared_gap"] + truth["structural_gap"]).to_numpy()
    free_of_age = [gap - np.polyval(np.polyfit(age, gap, 2), age) for gap in (residual, planted)]
    assert np.corrcoef(*free_of_age)[0, 1] > 0.35


def test_images_tell_the_age(tmp_path: Path) -> None:
    made = simulate_openbhb(tmp_path / "images", scans=40, volumes=40, grid=(12, 14, 12))
    cohort = read_openbhb(made.folder)
    truth = pd.read_csv(made.folder / "planted_truth.tsv", sep="\t")
    brain_age = cohort.scans["age"] + truth["shared_gap"] + truth["structural_gap"]
    for key in ("smri/cat12vbm", "smri/quasiraw"):
        source = cohort.sources[key]
        assert source.present.all()
        means = [source.load(row).mean() for row in range(len(cohort))]
        relative = means / cohort.scans["tiv"]  # a larger head fills more of the image
        assert np.corrcoef(relative, brain_age)[0, 1] < -0.9


def test_a_model_of_one_seed_fits_another(folder: Path, tmp_path: Path) -> None:
    other = simulate_openbhb(tmp_path / "other", scans=200, seed=9, volumes=0)
    cohorts = [read_openbhb(folder), read_openbhb(other.folder)]
    tables = []
    for cohort in cohorts:
        source = cohort.sources["smri/vbm_roi"]
        tables.append(np.stack([source.load(row) for row in range(len(cohort))]))
    slopes = [
        np.corrcoef(np.column_stack([cohort.scans["age"], table]).T)[0, 1:]
        for cohort, table in zip(cohorts, tables, strict=True)
    ]
    assert np.corrcoef(*slopes)[0, 1] > 0.95


def test_the_same_simulation_is_left_as_it_is(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = simulate_openbhb(folder)
    assert again.folder == folder
    assert again.with_fmri == 192
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_that_holds_anything_else_is_never_touched(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already holds something else"):
        simulate_openbhb(folder, seed=1)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="already holds something else"):
        simulate_openbhb(foreign)
    assert (foreign / "thesis.txt").read_text() == "all of it"


def test_an_interrupted_simulation_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulation, "_write_volumes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simulate_openbhb(tmp_path / "cohort", scans=20)
    assert not list(tmp_path.iterdir())
    simulate_openbhb(tmp_path / "cohort", scans=20, volumes=1)
    assert json.loads((tmp_path / "cohort" / "simulation.json").read_text())["scans"] == 20


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    made = simulate_openbhb(tmp_path, scans=20, volumes=0)
    assert is_openbhb(made.folder)
    assert made.connectomes.is_file()


@pytest.mark.parametrize(
    "settings",
    [
        {"scans": 19},
        {"volumes": -1},
        {"scans": 20, "volumes": 21},
        {"grid": (4, 28, 24)},
        {"grid": (24, 28)},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_cohort_are_refused(tmp_path: Path, settings: dict) -> None:
    with pytest.raises(UsageError):
        simulate_openbhb(tmp_path / "cohort", **settings)
    assert not (tmp_path / "cohort").exists()


def test_tables_do_not_depend_on_how_many_people_fit_a_block(tmp_path: Path) -> None:
    """Memory is bounded by the block: a cohort of more than one block has every row in its place."""
    made = simulate_openbhb(tmp_path / "large", scans=1100, volumes=0)
    cohort = read_openbhb(made.folder)
    assert all(source.present.all() for source in cohort.sources.values())
    sizes = cohort.sources["smri/desikan_roi"]
    areas = [sizes.load(row)[:68].mean() for row in range(len(cohort))]
    assert np.corrcoef(areas[1024:], cohort.scans["tiv"][1024:])[0, 1] > 0.4
