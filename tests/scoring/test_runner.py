"""Scoring a store: every scan accounted for, matched by name, honest about what it has seen."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_cohort, planted_store

from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
from hpc_brainage.config import load_config
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import ModelError, ScoringError
from hpc_brainage.evaluation.evidence import complete
from hpc_brainage.modality import Modality
from hpc_brainage.model.bundle import Bundle, load_bundle
from hpc_brainage.scoring import predictor as predictor_module
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.parts import PartFolder
from hpc_brainage.scoring.predictor import Predictor
from hpc_brainage.scoring.runner import score_store
from hpc_brainage.scoring.table import SCHEMA
from hpc_brainage.store.reader import Store
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import run_training

ONE = Fleet(workers=1)
SETTINGS = (
    "smri.components=10", "fmri.components=8", "smri.hidden=[16]", "fmri.hidden=[16]", "model.shared=4",
    "model.distinct=4", "training.folds=3", "training.epochs=25", "training.batch_size=16",
    "training.weight_decay=0.1", "training.learning_rate=5e-3", "training.device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and the store that it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    store = planted_store(folder)
    run = RunFolder.prepare(folder / "runs" / "planted", load_config(None, SETTINGS), store, None)
    return train(run), store


def train(run: RunFolder) -> Path:
    finished = run_training(run.path)
    assert finished is not None
    complete(finished)
    return run.model


def table_of(store: Path, model: Path, rows: np.ndarray | None = None) -> pd.DataFrame:
    """Score in this process, without Dask."""
    opened, bundle = Store.open(store), load_bundle(model)
    predictor = Predictor(bundle, opened, match_roles(opened, bundle.info), "test")
    return predictor.score(np.arange(opened.n_scans) if rows is None else rows)


def changed(cohort: Cohort, role: str, **changes: object) -> Cohort:
    """The cohort with another modality or source for the role."""
    key = f"{role}/table"
    source = replace(cohort.sources[key], **changes)  # type: ignore[arg-type]
    sources = {k: v for k, v in cohort.sources.items() if k != key} | {source.modality.key: source}
    return replace(cohort, sources=sources)


@pytest.mark.timeout(180)
def test_a_new_cohort_is_scored_with_dask_and_accounted_for(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    cohort = planted_cohort(50, seed=1, name="cases")
    cohort.scans.loc[3, "age"], cohort.scans.loc[4, "sex"] = np.nan, "U"
    cohort.scans.loc[5, "site"], cohort.scans.loc[6, "age"] = "elsewhere", 95.0
    store = convert(cohort, tmp_path / "cases.zarr").store_path
    seen: list[tuple[int, int]] = []
    report = score_store(store, model, tmp_path / "out", fleet=ONE, progress=lambda *p: seen.append(p[:2]))
    table = pd.read_csv(report.paths["tsv"], sep="\t", dtype={"participant_id": str}, keep_default_na=False)
    assert seen[-1] == (50, 50)
    assert list(table.columns) == list(SCHEMA)
    assert table["participant_id"].tolist() == cohort.scans["participant_id"].tolist()
    assert set(table["status"]) == {"scored"}
    parquet = pd.read_parquet(report.paths["parquet"])
    gap = (parquet["brain_age"] - parquet["age"]).dropna()
    assert gap.abs().mean() < 9
    pd.testing.assert_series_equal(gap, parquet["bag"].dropna(), check_names=False)
    assert not parquet["in_training"].any()
    assert set(parquet["members_used"]) == {3}
    assert np.isnan(parquet["bag"][3])
    assert "age_unknown" in parquet["flags"][3]
    assert "sex_unknown" in parquet["flags"][4]
    assert "sex_unseen" not in parquet["flags"][4]
    assert np.isnan(parquet["brain_age_other_sex"][4])
    assert "site_unseen" in parquet["flags"][5]
    assert "age_outside_training" in parquet["flags"][6]
    assert "fmri_missing" in parquet["flags"][49]
    assert np.isnan(parquet["brain_age_fmri_only"][49])
    about = json.loads(report.paths["json"].read_text())
    assert about["summary"]["scans"] == 50
    assert set(about["columns"]) == set(table.columns)
    assert not (tmp_path / "out.parts").exists()


def test_people_of_the_training_are_scored_by_the_member_that_never_saw_them(
    trained: tuple[Path, Path],
) -> None:
    model, store = trained
    table = table_of(store, model)
    held_out = pd.read_csv(model.parent / "held_out.tsv", sep="\t", dtype={"participant_id": str})
    assert table["in_training"].all()
    assert set(table["members_used"]) == {1}
    np.testing.assert_allclose(table["brain_age"], held_out["brain_age"], rtol=1e-5)
    evidence = load_bundle(model).info.evidence
    assert evidence is not None
    assert table["bag"].abs().mean() == pytest.approx(evidence.everyone.model.mae, rel=1e-4)


def test_features_are_matched_by_name_and_not_by_place(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = trained
    cohort = planted_cohort(20, seed=2)
    modality, load = cohort.sources["smri/table"].modality, cohort.sources["smri/table"].load
    order = np.random.default_rng(0).permutation(modality.shape[0])
    shuffled = replace(modality, features=tuple(modality.features[i] for i in order))
    other = changed(cohort, "smri", modality=shuffled, load=lambda row: load(row)[order])
    first = convert(cohort, tmp_path / "a.zarr").store_path
    second = convert(replace(other, name="other"), tmp_path / "b.zarr").store_path
    np.testing.assert_array_equal(table_of(first, model)["brain_age"], table_of(second, model)["brain_age"])


def without(cohort: Cohort, role: str, dropped: int) -> Cohort:
    """The cohort without the first features of a role, and with as many that no model knows."""
    modality, load = cohort.sources[f"{role}/table"].modality, cohort.sources[f"{role}/table"].load
    unknown = tuple(f"unknown {i}" for i in range(dropped))
    renamed = replace(modality, features=(*unknown, *modality.features[dropped:]))
    return changed(cohort, role, modality=renamed, load=load)


def test_missing_features_are_imputed_and_said(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = trained
    store = convert(without(planted_cohort(20, seed=3), "smri", 4), tmp_path / "few.zarr").store_path
    table = table_of(store, model)
    here = table["has_smri"]
    assert (table["imputed_smri"][here] == 4).all()
    assert table["flags"][here].str.contains("smri_features_imputed").all()
    opened = Store.open(store)
    match = match_roles(opened, load_bundle(model).info)["smri"]
    assert len(match.missing) == match.ignored == 4


def test_too_few_shared_features_are_an_error_that_shows_both_sides(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    store = convert(without(planted_cohort(20, seed=3), "smri", 20), tmp_path / "other.zarr").store_path
    with pytest.raises(ModelError, match="10 of the 30 smri features") as caught:
        score_store(store, model, tmp_path / "out")
    assert "smri region 0" in str(caught.value)
    assert "unknown 0" in str(caught.value)


def test_a_store_with_one_modality_is_scored_with_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = trained
    cohort = planted_cohort(30, seed=4)
    only = replace(cohort, sources={"fmri/table": cohort.sources["fmri/table"]})
    table = table_of(convert(only, tmp_path / "only.zarr").store_path, model)
    here = table["has_fmri"]
    assert (table["status"] == np.where(here, "scored", "missing")).all()
    assert table["reason"][~here].str.contains("no smri or fmri").all()
    assert table["brain_age"][~here].isna().all()
    assert (table["members_used"] == np.where(here, 3, 0)).all()
    np.testing.assert_array_equal(table["brain_age"][here], table["brain_age_fmri_only"][here])


def test_a_store_without_any_of_the_model_s_modalities_is_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    cohort = planted_cohort(20, seed=5, volumes=True)
    images = replace(cohort, sources={"smri/vbm": cohort.sources["smri/vbm"]})
    store = convert(images, tmp_path / "images.zarr").store_path
    with pytest.raises(ModelError, match="none of the modalities"):
        score_store(store, model, tmp_path / "out")


def test_line_norms_and_intervals_of_a_modality_stand_on_the_same_predictions(
    trained: tuple[Path, Path],
) -> None:
    model, store = trained
    info = load_bundle(model).info
    assert info.calibration is not None
    held_out = pd.read_csv(model.parent / "held_out.tsv", sep="\t")
    for name, column in (("smri", "brain_age_smri_only"), ("fmri", "brain_age_fmri_only")):
        known = held_out[held_out[column].notna()]
        slope, intercept = np.polyfit(known["age"], known[column], 1)
        line = info.bias[name]
        assert (line.slope, line.intercept) == pytest.approx((slope, intercept), abs=1e-4)
        assert line.n == info.calibration.groups[name].n == len(known)
    both = held_out["available"] == "smri+fmri"
    assert info.bias["smri+fmri"].n == info.calibration.groups["smri+fmri"].n == both.sum()
    table = table_of(store, model)
    fit = table["bias_fit"].groupby([table["has_smri"], table["has_fmri"]]).unique()
    assert set(fit[True, True]) == {"98 held-out training scans (smri+fmri)"}
    assert set(fit[False, True]) == {"100 held-out training scans (fmri)"}  # of whom two have that alone
    assert set(fit[True, False]) == {
        "52 held-out training scans (smri, F)",
        "66 held-out training scans (smri, M)",
    }


def test_a_store_in_other_units_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = trained
    cohort = planted_cohort(20, seed=12)
    modality = replace(cohort.sources["smri/table"].modality, units=("cm",) * 30)
    store = convert(changed(cohort, "smri", modality=modality), tmp_path / "cm.zarr").store_path
    with pytest.raises(ModelError, match="in cm in the store and in mm in the model"):
        score_store(store, model, tmp_path / "out")


def test_another_table_with_the_same_names_does_not_hide_the_model_s(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    cohort = planted_cohort(20, seed=13)
    first = cohort.sources["smri/table"]
    other = replace(
        first, modality=replace(first.modality, name="other"), load=lambda row: first.load(row) + 5
    )
    both = replace(cohort, name="both", sources={**cohort.sources, "smri/other": other})
    plain = convert(cohort, tmp_path / "plain.zarr").store_path
    more = convert(both, tmp_path / "more.zarr").store_path
    np.testing.assert_array_equal(table_of(plain, model)["brain_age"], table_of(more, model)["brain_age"])


def test_another_cohort_s_participant_of_the_same_name_is_a_stranger(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    strangers = planted_cohort(20, seed=9, name="clinic")
    strangers.scans["participant_id"] = planted_cohort(20).scans["participant_id"]
    table = table_of(convert(strangers, tmp_path / "clinic.zarr").store_path, model)
    assert not table["in_training"].any()
    assert table["flags"].str.contains("id_in_training").all()
    assert (
        table["members_used"] == 1
    ).all()  # whoever they are, no member that saw the identifier is asked
    familiar = replace(planted_cohort(120), name="renamed")
    familiar.scans["participant_id"] = [f"new{i}" for i in range(120)]
    table = table_of(convert(familiar, tmp_path / "renamed.zarr").store_path, model)
    assert table["in_training"].all()


def test_the_site_of_a_person_of_the_training_is_not_unseen_for_not_being_given(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    people = planted_cohort(120)
    people.scans["site"] = ""
    people.scans.loc[:4, "site"] = "elsewhere"
    table = table_of(convert(people, tmp_path / "nowhere.zarr").store_path, model)
    assert table["in_training"].all()
    unseen = table["flags"].str.contains("site_unseen")
    assert unseen.tolist() == [True] * 5 + [False] * 115
    strangers = planted_cohort(5, seed=9, name="clinic")
    strangers.scans["site"] = ""
    table = table_of(convert(strangers, tmp_path / "clinic.zarr").store_path, model)
    assert table["flags"].str.contains("site_unseen").all()


def test_a_store_whose_tables_share_feature_names_fits_its_own_model(tmp_path: Path) -> None:
    cohort = planted_cohort(40, seed=10)
    first = cohort.sources["smri/table"]
    twin = replace(first, modality=replace(first.modality, name="twin"))
    both = replace(cohort, sources={**cohort.sources, "smri/twin": twin})
    store = convert(both, tmp_path / "twins.zarr").store_path
    settings = [*SETTINGS, "smri.tables=['twin']", "training.epochs=1", "training.folds=2"]
    run = RunFolder.prepare(tmp_path / "run", load_config(None, settings), store, None)
    model = train(run)
    assert (table_of(store, model)["status"] == "scored").all()


def test_a_cohort_column_that_is_called_like_a_score_is_kept_beside_it(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    cohort = planted_cohort(20, seed=11)
    named = replace(
        cohort,
        scans=cohort.scans.assign(bag=np.arange(20.0), reason="tired", cohort_reason="paid"),
        name="named",
    )
    table = table_of(convert(named, tmp_path / "named.zarr").store_path, model)
    assert table["cohort_bag"].tolist() == list(range(20))
    assert set(table["cohort_reason"]) == {"paid"}
    assert set(table["cohort_reason_2"]) == {"tired"}
    assert (table["bag"] - (table["brain_age"] - table["age"])).abs().max() < 1e-9


def test_a_damaged_scan_fails_alone(trained: tuple[Path, Path]) -> None:
    model, store = trained
    opened, bundle = Store.open(store), load_bundle(model)

    class Damaged(Predictor):
        def _read(self, rows: np.ndarray):  # type: ignore[no-untyped-def]
            from hpc_brainage.errors import StoreError

            if 7 in rows:
                raise StoreError("the checksum of a shard does not hold")
            return super()._read(rows)

    rows = np.arange(5, 12)
    found = Damaged(bundle, opened, match_roles(opened, bundle.info), "test").score(rows)
    assert found["status"].tolist() == [
        "scored",
        "scored",
        "failed",
        "scored",
        "scored",
        "scored",
        "scored",
    ]
    assert found["reason"][2] == "the checksum of a shard does not hold"
    np.testing.assert_allclose(
        found["brain_age"].drop(2), table_of(store, model, rows)["brain_age"].drop(2), rtol=1e-5
    )


def test_threads_that_score_side_by_side_give_the_very_same_table(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their number: each row's block, and so its arithmetic, is the same."""
    from hpc_brainage.errors import StoreError

    model, store = trained
    monkeypatch.setattr(predictor_module, "FEATURE_ROWS_AT_ONCE", 7)
    opened, bundle = Store.open(store), load_bundle(model)
    at_work: set[threading.Thread] = set()

    class Watched(Predictor):
        def _fill(self, found, scans, places, block) -> None:  # type: ignore[no-untyped-def]
            if threading.current_thread() not in at_work:
                at_work.add(threading.current_thread())
                together.wait()
            if 30 in places and len(places) > 1:
                raise StoreError("one of them cannot be used")
            super()._fill(found, scans, places, block)

    rows = np.arange(opened.n_scans)[::-1].copy()
    tables = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            at_work.clear()
            together = threading.Barrier(threads, timeout=30)
            torch.set_num_threads(threads)
            predictor = Watched(bundle, opened, match_roles(opened, bundle.info), "test")
            tables.append(predictor.score(rows))
            assert len(at_work) == threads
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    assert (tables[0]["status"] == "scored").all()
    assert tables[0]["participant_id"].tolist() == opened.scans["participant_id"].iloc[rows].tolist()


@pytest.mark.timeout(180)
def test_parts_that_are_done_are_kept_and_those_of_another_run_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, store = trained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpc_brainage.scoring.runner.write_table", _fail)
        with pytest.raises(RuntimeError, match="cut off"):
            score_store(store, model, tmp_path / "out", fleet=ONE)
    part = tmp_path / "out.parts" / "rows-000000000-000000120.parquet"
    before = part.stat().st_mtime_ns
    with pytest.raises(ScoringError, match="with another selection left its parts"):
        score_store(store, model, tmp_path / "out", where="age > 40", fleet=ONE)
    assert part.stat().st_mtime_ns == before
    report = score_store(store, model, tmp_path / "out", fleet=ONE)
    assert (len(report.table), report.kept) == (120, 120)
    assert not part.exists()


def test_two_commands_do_not_score_into_the_same_table(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, store = trained
    first = PartFolder(tmp_path / "out.parts", {})
    with first.held(), pytest.raises(ScoringError, match="another command is scoring"):
        score_store(store, model, tmp_path / "out", fleet=ONE)


def _fail(*_: object) -> None:
    raise RuntimeError("cut off")


def test_extra_columns_are_carried_through_and_formulas_made_harmless(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = trained
    cohort = planted_cohort(20, seed=6)
    scans = cohort.scans.assign(note=["=HYPERLINK(1)", "@x", "-3", *["plain"] * 17], score=np.arange(20.0))
    store = convert(replace(cohort, scans=scans), tmp_path / "notes.zarr").store_path
    report = score_store(store, model, tmp_path / "out", fleet=ONE)
    tsv = pd.read_csv(report.paths["tsv"], sep="\t", dtype=str)
    assert tsv["note"][:4].tolist() == ["'=HYPERLINK(1)", "'@x", "'-3", "plain"]
    assert pd.read_parquet(report.paths["parquet"])["note"][0] == "=HYPERLINK(1)"
    assert report.table["score"].tolist() == list(range(20))


def test_a_model_that_hardly_follows_age_is_flagged(trained: tuple[Path, Path]) -> None:
    model, store = trained
    opened, bundle = Store.open(store), load_bundle(model)
    lines = {group: line.model_copy(update={"slope": 0.1}) for group, line in bundle.info.bias.items()}
    weak = bundle.info.model_copy(update={"bias": lines})
    matches = match_roles(opened, weak)
    table = Predictor(Bundle(weak, bundle.members), opened, matches, "test").score(np.arange(10))
    scored = table["status"] == "scored"
    assert table["flags"][scored].str.contains("model_barely_follows_age").all()


def test_every_row_is_flagged_where_the_model_is_not_told_apart_from_a_constant_age(
    trained: tuple[Path, Path],
) -> None:
    model, store = trained
    opened, bundle = Store.open(store), load_bundle(model)
    evidence = bundle.info.evidence
    assert evidence is not None
    assert evidence.minus_constant is not None
    by_chance = evidence.minus_constant.model_copy(update={"high": 0.1})
    for difference, flagged in ((evidence.minus_constant, False), (by_chance, True)):
        changed_evidence = evidence.model_copy(update={"minus_constant": difference})
        info = bundle.info.model_copy(update={"evidence": changed_evidence})
        predictor = Predictor(Bundle(info, bundle.members), opened, match_roles(opened, info), "test")
        table = predictor.score(np.arange(10))
        scored = table["flags"][table["status"] == "scored"]
        assert (scored.str.contains("model_no_better_than_mean") == flagged).all()


def test_a_volume_of_another_grid_is_refused(tmp_path: Path) -> None:
    settings = [
        *SETTINGS, "smri.tables=['vbm']", "smri.encoder=sfcn", "smri.hidden=[4,8]", "fmri.use=false",
        "training.epochs=1", "training.folds=2",
    ]  # fmt: skip
    images = planted_store(tmp_path, 20, seed=7, volumes=True)
    run = RunFolder.prepare(tmp_path / "run", load_config(None, settings), images, None)
    model = train(run)
    assert (table_of(images, model)["status"] == "scored").all()
    other = Modality("smri", "vbm", "volume", (5, 6, 7), units=("",))
    source = ModalitySource(
        other, np.ones(20, dtype=bool), lambda row: np.full((5, 6, 7), 1.0 + row, np.float32)
    )
    cohort = replace(planted_cohort(20, seed=8), sources={other.key: source})
    wrong = convert(cohort, tmp_path / "wrong.zarr").store_path
    with pytest.raises(ModelError, match=r"grid \(5, 6, 7\)"):
        score_store(wrong, model, tmp_path / "out")
