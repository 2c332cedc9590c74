"""A run ends with a calibration from held-out controls, and scores mean what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import planted_cohort

from hpc_brainage.config import load_config
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.evaluation.calibration import OTHER_SITES, calibrate, training_range
from hpc_brainage.evaluation.evidence import complete
from hpc_brainage.model.bundle import Bundle, load_bundle
from hpc_brainage.model.card import model_card
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.depth import judge_table
from hpc_brainage.scoring.predictor import Predictor
from hpc_brainage.scoring.runner import score_store
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import load_training_data
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import FinishedRun, run_training

SETTINGS = (
    "smri.components=10", "fmri.components=8", "smri.hidden=[16]", "fmri.hidden=[16]", "model.shared=4",
    "model.distinct=4", "training.folds=4", "training.ensemble=2", "training.epochs=12",
    "training.batch_size=32", "training.weight_decay=0.1", "training.learning_rate=5e-3",
    "training.device=cpu", "loss.age_form=nll", "training.controls=diagnosis == 'control'",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedRun, Bundle]:
    folder = tmp_path_factory.mktemp("calibrated")
    cohort = planted_cohort(400, name="people")
    scans = cohort.scans.assign(magnetic_field_strength=np.where(np.arange(400) % 3, 3.0, 1.5))
    store = convert(replace(cohort, scans=scans), folder / "people.zarr").store_path
    run = RunFolder.prepare(folder / "runs" / "m", load_config(None, SETTINGS), store, None)
    done = run_training(run.path)
    assert done is not None
    complete(done)
    return done, load_bundle(run.model)


def scored(bundle: Bundle, store: Path | str) -> pd.DataFrame:
    opened = Store.open(store)
    return Predictor(bundle, opened, match_roles(opened, bundle.info), "test").score(
        np.arange(opened.n_scans)
    )


def store_of(folder: Path, name: str, people: int = 250, seed: int = 5, **columns: object) -> Path | str:
    cohort = planted_cohort(people, seed=seed, name=name)
    return convert(
        replace(cohort, scans=cohort.scans.assign(**columns)), folder / f"{name}.zarr"
    ).store_path


def test_controls_alone_calibrate_and_the_summary_says_on_how_many(
    finished: tuple[FinishedRun, Bundle],
) -> None:
    run, bundle = finished
    found = bundle.info.calibration
    assert found is not None
    controls = int((run.data.scans["diagnosis"] == "control").sum())
    assert found.n == controls < 400
    assert found.controls == "diagnosis == 'control'"
    assert set(found.groups) == {"smri+fmri", "smri", "fmri"}
    assert found.coverage["everyone"].n == controls
    assert found.coverage["everyone"].covered == pytest.approx(0.9, abs=0.05)
    assert {"sex F", "sex M", "site site 0", "with smri+fmri", "with smri"} <= set(found.coverage)
    assert found.coverage[OTHER_SITES].n == controls
    assert found.coverage[OTHER_SITES].covered == pytest.approx(0.9, abs=0.06)
    assert all(line.n <= controls for line in bundle.info.bias.values())
    card = (run.folder.model / "MODEL_CARD.md").read_text()
    assert f"On {controls} held-out scans of controls (`diagnosis == 'control'`)" in card
    assert f"| everyone | {controls} | {found.coverage['everyone'].covered:.1%} |" in card


def test_scans_of_an_age_that_few_training_people_have_are_flagged(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    run, bundle = finished
    calibration = bundle.info.calibration
    assert calibration is not None
    assert calibration.ages is not None
    ages = run.data.scans["age"]
    people = run.data.scans.assign(year=np.floor(ages.astype(float)))[["participant_id", "year"]]
    assert sum(calibration.ages.counts) == len(people.drop_duplicates())
    young, oldest = calibration.ages.first + 5.0, float(ages.max()) - 0.01
    sparse = calibration.ages.model_copy(
        update={"counts": tuple(n if k < 30 else 0 for k, n in enumerate(calibration.ages.counts))}
    )
    info = bundle.info.model_copy(update={"calibration": calibration.model_copy(update={"ages": sparse})})
    table = scored(
        replace(bundle, info=info), store_of(tmp_path, "rare", 4, age=[young, oldest, oldest, 99.0])
    )
    few = table["flags"].str.contains("few_training_people_of_this_age").tolist()
    assert few == [False, True, True, False]


def test_a_card_without_controls_says_how_the_people_were_chosen(
    finished: tuple[FinishedRun, Bundle],
) -> None:
    info = finished[1].info
    assert info.calibration is not None
    everybody = info.calibration.model_copy(update={"controls": ""})
    chosen = info.training.model_copy(update={"where": "dx == 'TC'"})
    alone = info.model_copy(update={"calibration": everybody})
    assert "of people, whatever their diagnosis" in model_card(alone)
    card = model_card(alone.model_copy(update={"training": chosen}))
    assert "of all people of the training, chosen by `dx == 'TC'`" in card
    assert "whatever their diagnosis" not in card


@pytest.mark.parametrize(
    ("sites", "said"),
    [({"A": 9, "B": 3}, "2"), ({"": 12}, "not given"), ({"": 3, "A": 9}, "1, and of 3 scans not given")],
)
def test_a_card_counts_no_site_that_is_not_given(
    finished: tuple[FinishedRun, Bundle], sites: dict[str, int], said: str
) -> None:
    info = finished[1].info
    training = info.training.model_copy(update={"sites": sites})
    assert f"; sites: {said}\n" in model_card(info.model_copy(update={"training": training}))


def test_a_card_says_whose_z_have_no_shape(finished: tuple[FinishedRun, Bundle]) -> None:
    info = finished[1].info
    assert info.calibration is not None
    said = "normative z from {} have no shape"
    assert said.format("smri") not in model_card(info)
    one = info.calibration.groups["smri"]
    assert one.norms is not None
    without = one.model_copy(update={"norms": one.norms.model_copy(update={"shape": None})})
    groups = info.calibration.groups | {"smri": without}
    calibration = info.calibration.model_copy(update={"groups": groups})
    card = model_card(info.model_copy(update={"calibration": calibration}))
    assert said.format("smri") in card
    assert said.format("fmri") not in card


def test_held_out_people_are_measured_as_scans_are_scored(finished: tuple[FinishedRun, Bundle]) -> None:
    run, bundle = finished
    table = scored(bundle, Path(run.folder.request()["store"]))
    np.testing.assert_allclose(table["brain_age"], run.held_out["brain_age"], rtol=1e-5)
    controls = (run.data.scans["diagnosis"] == "control").to_numpy()
    far = bundle.info.calibration.groups["smri+fmri"].far  # type: ignore[union-attr]
    both = (table["has_smri"] & table["has_fmri"]).to_numpy()
    assert (table["mahalanobis"][both] > far).mean() == pytest.approx(0.01, abs=0.01)
    z = table["recon_z_smri"][table["has_smri"]]
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.std() == pytest.approx(1, abs=0.01)
    own = table[controls]
    assert own["bag_z"].mean() == pytest.approx(0, abs=0.15)
    assert own["p_accelerated"].mean() == pytest.approx(0.5, abs=0.05)


def test_new_people_lie_in_their_intervals_and_every_column_has_its_number(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    table = scored(finished[1], store_of(tmp_path, "new"))
    assert not table["in_training"].any()
    held = (table["age"] >= table["pi90_lo"]) & (table["age"] <= table["pi90_hi"])
    assert held.mean() > 0.85
    for name in ("brain_age_sd_aleatoric", "brain_age_sd_epistemic", "pi90_lo", "pi90_hi", "mahalanobis"):
        assert table[name].notna().all(), name
    assert (table["pi90_lo"] < table["brain_age"]).all()
    both = table["has_smri"] & table["has_fmri"]
    np.testing.assert_allclose(
        table["modality_delta"][both],
        (table["brain_age_smri_only"] - table["brain_age_fmri_only"])[both],
    )
    assert table["modality_delta"][~both].isna().all()
    for role in ("smri", "fmri"):
        has = table[f"has_{role}"]
        assert (table[f"recon_z_{role}"].notna() == has).all()
        assert (table[f"out_of_range_{role}"].notna() == has).all()
    inside = table["age_in_training_range"].to_numpy(dtype=bool)
    normed = table["bag_z"].notna()
    assert normed[inside & ~table["flags"].str.contains("age_outside_norms")].all()
    assert not normed[~inside].any()
    rank = table["bag_z"][normed].rank().to_numpy()
    assert np.corrcoef(rank, table["p_accelerated"][normed])[0, 1] < -0.95


def test_where_a_scan_stands_in_its_batch_changes_nothing(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    _, bundle = finished
    opened = Store.open(store_of(tmp_path, "order", people=40))
    predictor = Predictor(bundle, opened, match_roles(opened, bundle.info), "test")
    whole, order = predictor.score(np.arange(40)), np.random.default_rng(0).permutation(40)
    again = predictor.score(order)
    numbers = [c for c in whole if whole[c].dtype == float]
    for name in numbers:
        np.testing.assert_allclose(
            again[name].to_numpy(), whole[name].to_numpy()[order], rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_strange_scans_are_flagged_one_by_one(finished: tuple[FinishedRun, Bundle], tmp_path: Path) -> None:
    cohort = planted_cohort(60, seed=6, name="strange")
    source = cohort.sources["smri/table"]
    wild = replace(
        source,
        load=lambda row: source.load(row) * (1 if row != 7 else np.float32(-2)),
        modality=source.modality,
    )
    field = np.full(60, 3.0)
    field[9], field[10] = 7.0, np.nan
    scans = cohort.scans.assign(magnetic_field_strength=field)
    changed = replace(cohort, scans=scans, sources={**cohort.sources, "smri/table": wild})
    table = scored(finished[1], convert(changed, tmp_path / "strange.zarr").store_path)
    assert "features_out_of_range_smri" in table["flags"][7]
    assert "reconstruction_poor_smri" in table["flags"][7]
    assert table["out_of_range_smri"][7] == 30
    assert table["flags"].str.contains("features_out_of_range_smri").sum() < 8
    assert "field_strength_unseen" in table["flags"][9]
    assert "field_strength_unseen" not in table["flags"][10]
    assert table["flags"].str.contains("field_strength_unseen").sum() == 1
    assert judge_table(table, finished[1].info) == ()


def test_a_table_in_another_unit_is_refused_unless_it_is_asked_for(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    cohort = planted_cohort(60, seed=7, name="cm")
    source = cohort.sources["smri/table"]
    modality = replace(source.modality, units=("",) * 30)
    scaled = replace(source, modality=modality, load=lambda row: source.load(row) / 10)
    changed = replace(cohort, sources={**cohort.sources, "smri/table": scaled})
    table = scored(finished[1], convert(changed, tmp_path / "cm.zarr").store_path)
    with pytest.raises(ScoringError, match="makes no sense") as caught:
        judge_table(table, finished[1].info)
    assert "smri features lie beyond" in str(caught.value)
    assert "--accept-implausible" in str(caught.value)
    notes = judge_table(table, finished[1].info, accept=True)
    assert any("smri features lie beyond" in note for note in notes)


@pytest.mark.timeout(180)
def test_a_refused_table_is_not_written_and_what_was_scored_is_kept(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    cohort = planted_cohort(60, seed=8, name="cm")
    source = cohort.sources["smri/table"]
    modality = replace(source.modality, units=("",) * 30)
    scaled = replace(source, modality=modality, load=lambda row: source.load(row) / 10)
    store = convert(
        replace(cohort, sources={**cohort.sources, "smri/table": scaled}), tmp_path / "cm.zarr"
    ).store_path
    model, out = finished[0].folder.model, tmp_path / "scores" / "cm"
    out.parent.mkdir()
    with pytest.raises(ScoringError, match="makes no sense"):
        score_store(store, model, out)
    assert not out.with_name("cm.tsv").exists()
    report = score_store(store, model, out, accept_implausible=True)
    assert report.kept == 60
    assert any("smri features lie beyond" in note for note in report.notes)
    about = json.loads(report.paths["json"].read_text())
    assert about["schema_version"] == 3
    assert about["model"]["calibration"]["controls"] == "diagnosis == 'control'"
    assert about["flag_meanings"]["sex_unknown"]
    description = json.loads((out.parent / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "hpc-brainage"


def test_the_same_scans_converted_anew_are_scored_by_members_that_never_saw_them(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    """Other names, other checksums: only the fingerprint of the features tells."""
    run, bundle = finished
    cohort = planted_cohort(400, name="again")
    scans = cohort.scans.assign(participant_id=[f"other{i}" for i in range(400)])
    sources = {
        key: replace(source, load=lambda row, load=source.load: np.round(load(row), 2))
        for key, source in cohort.sources.items()
    }
    table = scored(
        bundle, convert(replace(cohort, scans=scans, sources=sources), tmp_path / "a.zarr").store_path
    )
    prints = bundle.training_range.fingerprints  # type: ignore[union-attr]
    assert set(prints) == {"smri", "fmri"}
    assert table["in_training"].mean() > 0.97
    np.testing.assert_allclose(
        table["brain_age"][table["in_training"]],
        run.held_out["brain_age"][table["in_training"].to_numpy()],
        atol=0.2,
    )


def test_a_bundle_without_calibration_still_scores(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    _, bundle = finished
    old = Bundle(bundle.info.model_copy(update={"calibration": None, "format_version": 1}), bundle.members)
    table = scored(old, store_of(tmp_path, "old", people=30))
    assert (table["status"] == "scored").all()
    for name in ("pi90_lo", "bag_z", "bag_centile", "p_accelerated", "recon_z_smri", "mahalanobis"):
        assert table[name].isna().all(), name
    assert table["brain_age_sd_epistemic"].notna().all()
    assert judge_table(table, old.info) == ()


def test_a_calibration_survives_the_bundle_and_is_the_same_again(
    finished: tuple[FinishedRun, Bundle],
) -> None:
    run, bundle = finished
    found = training_range(run.info, run.members, run.data, run.fold)
    again = calibrate(Bundle(bundle.info, run.members, training_range=found), run.data, run.fold)
    assert again == bundle.info.calibration
    assert bundle.training_range is not None
    for name, array in found.arrays().items():
        np.testing.assert_array_equal(array, bundle.training_range.arrays()[name])


def test_controls_that_nobody_is_are_refused_before_training(
    finished: tuple[FinishedRun, Bundle], tmp_path: Path
) -> None:
    store = finished[0].folder.request()["store"]
    config = load_config(None, [*SETTINGS[:-1], "training.controls=diagnosis == 'healthy'"])
    with pytest.raises(UsageError, match="matches none of the 400 scans") as caught:
        RunFolder.prepare(tmp_path / "run", config, store, None)
    assert "training.controls" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_several_diagnoses_and_no_controls_are_worth_a_warning(
    finished: tuple[FinishedRun, Bundle],
) -> None:
    store = Store.open(finished[0].folder.request()["store"])
    notes = load_training_data(store, load_config(None, SETTINGS[:-1])).notes
    assert any("several diagnoses (control" in note and "training.controls" in note for note in notes)
    assert not any("WARNING" in note for note in finished[0].data.notes)
