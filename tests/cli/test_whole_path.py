"""The three verbs one after the other, typed as a user types them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from cli.commands import TINY, Answer, Brainage, type_command
from planted import planted_cohort, planted_store

from hpc_brainage.cli.screen import years
from hpc_brainage.conversion.convert import convert

Trained = tuple[Path, Answer]


def scores(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"participant_id": str}, keep_default_na=False)


def test_training_takes_openbhb_zarr_and_shows_what_it_reached_beside_simple_predictors(
    trained: Trained,
) -> None:
    folder, answer = trained
    assert answer.code == 0, answer.text
    assert "training on 60 scans of 60 people (58 with smri, 50 with fmri) -> runs/openbhb" in answer.text
    for predictor in ("this model", "ridge", "predicting the mean age"):
        assert predictor in answer.text
    assert (folder / "runs" / "latest").resolve() == (folder / "runs" / "openbhb").resolve()
    assert json.loads((folder / "runs/openbhb/status.json").read_text())["state"] == "finished"
    held_out = pd.read_csv(folder / "runs/openbhb/held_out.tsv", sep="\t")
    reached = (held_out["brain_age"] - held_out["age"]).abs().mean()
    line = next(line for line in answer.out.splitlines() if "this model" in line)
    assert f" {reached:.2f} " in line


def test_training_again_does_nothing_and_shows_the_same(trained: Trained) -> None:
    folder, answer = trained
    before = (folder / "runs/openbhb/metrics.jsonl").read_bytes()
    again = type_command(folder, "train", *(word for setting in TINY for word in ("--set", setting)))
    assert again.code == 0
    assert "nothing was left to do" in again.out
    table = answer.out.partition("held-out error")[2]
    assert table
    assert again.out.partition("held-out error")[2] == table
    assert (folder / "runs/openbhb/metrics.jsonl").read_bytes() == before


def test_other_settings_under_the_same_name_are_refused(trained: Trained) -> None:
    folder, _ = trained
    answer = type_command(folder, "train", "--set", "training.seed=5")
    assert answer.code == 3
    assert "other settings" in answer.err
    assert "--name" in answer.err


def test_scoring_takes_the_latest_model_and_writes_three_files(trained: Trained) -> None:
    folder, _ = trained
    answer = type_command(folder, "score", "openbhb.zarr", "--workers", "1")
    assert answer.code == 0, answer.text
    assert "60 scans: 60 scored" in answer.text
    assert "60 scans are of people in the model's training" in answer.text
    out = folder / "scores" / "openbhb_openbhb"
    table = scores(out.with_suffix(".tsv"))
    assert len(table) == len(pd.read_parquet(out.with_suffix(".parquet"))) == 60
    assert set(table["status"]) == {"scored"}
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["summary"]["in_training"] == 60
    found = about["summary"]
    corrected = pd.read_parquet(out.with_suffix(".parquet"))["bag_corrected"]
    assert found["mean_corrected_gap"] == pytest.approx(corrected.mean())
    assert found["training_mean_gap"] == pytest.approx(found["mean_gap"] - corrected.mean())
    usual = years(found["training_mean_gap"], sign=True)
    assert f"of held-out training people of these ages and modalities: mean {usual} y" in answer.text
    assert f"corrected gap: mean {years(found['mean_corrected_gap'], sign=True)} y" in answer.text
    barely = found["flags"].get("model_barely_follows_age", 0)
    assert ("WARNING: for" in answer.text) == bool(barely)
    held_out = pd.read_csv(
        folder / "runs/openbhb/held_out.tsv", sep="\t", dtype={"participant_id": str}
    ).set_index("participant_id")["brain_age"]
    table = table.set_index("participant_id")
    assert table["brain_age"].to_numpy() == pytest.approx(held_out[table.index].to_numpy(), abs=1e-3)


def test_new_people_of_a_selection_are_scored_and_hostile_cells_are_escaped(trained: Trained) -> None:
    folder, _ = trained
    cohort = planted_cohort(30, seed=1, name="cases")
    sites = ["=cmd()", "[red]x[/red]", "<script>"] * 10
    cohort = replace(cohort, scans=cohort.scans.assign(site=sites))
    convert(cohort, folder / "cases.zarr")
    answer = type_command(
        folder, "score", "cases.zarr", "--model", "runs/openbhb", "--out", "out/cases", "--workers", "1",
        "--where", "age > 30 and site != '<script>'",
    )  # fmt: skip
    assert answer.code == 0, answer.text
    chosen = cohort.scans.query("age > 30 and site != '<script>'")
    table = scores(folder / "out" / "cases.tsv")
    assert table["participant_id"].tolist() == chosen["participant_id"].tolist()
    assert set(table["site"]) == {"'=cmd()", "[red]x[/red]"}
    assert set(pd.read_parquet(folder / "out" / "cases.parquet")["site"]) == {"=cmd()", "[red]x[/red]"}
    assert (
        json.loads((folder / "out" / "cases.json").read_text())["where"]
        == "age > 30 and site != '<script>'"
    )


def test_a_scan_that_the_model_cannot_score_is_listed_and_the_code_says_so(trained: Trained) -> None:
    folder, _ = trained
    cohort = planted_cohort(12, seed=2, name="gaps")
    for source in cohort.sources.values():
        source.present[3] = False
    convert(cohort, folder / "gaps.zarr")
    answer = type_command(folder, "score", "gaps.zarr", "--workers", "1")
    assert answer.code == 4
    assert "12 scans: 1 missing, 11 scored" in answer.text
    table = scores(folder / "scores" / "gaps_openbhb.tsv")
    assert table["status"].tolist() == ["scored"] * 3 + ["missing"] + ["scored"] * 8
    assert table["brain_age"][3] == ""
    assert table["reason"][3]


def test_a_selection_that_is_not_understood_scores_nobody(trained: Trained) -> None:
    folder, _ = trained
    answer = type_command(folder, "score", "openbhb.zarr", "--out", "out/none", "--where", "agee > 3")
    assert answer.code == 2
    assert "did you mean 'age'?" in answer.text
    assert not list((folder / "out").glob("none*"))


def test_a_store_that_shares_too_few_features_with_the_model_is_refused(trained: Trained) -> None:
    folder, _ = trained
    cohort = planted_cohort(12, seed=3, name="other_atlas")
    source = cohort.sources["smri/table"]
    renamed = tuple(f"parcel {i}" for i in range(20)) + source.modality.features[20:]
    sources = {"smri/table": replace(source, modality=replace(source.modality, features=renamed))}
    convert(replace(cohort, sources=sources), folder / "other_atlas.zarr")
    answer = type_command(folder, "score", "other_atlas.zarr")
    assert answer.code == 3
    assert "the store has 10 of the 30 smri features that the model takes" in answer.text
    assert "other_atlas.zarr" in answer.err
    assert not (folder / "scores" / "other_atlas_openbhb.tsv").exists()


def test_scans_that_are_found_damaged_are_listed_in_the_words_of_the_store(trained: Trained) -> None:
    folder, _ = trained
    store = planted_store(folder, people=12, seed=4, name="damaged")
    shard = next((store / "fmri_table").rglob("c.*"))
    content = bytearray(shard.read_bytes())
    content[40] ^= 0xFF
    shard.write_bytes(bytes(content))
    answer = type_command(folder, "score", "damaged.zarr", "--workers", "1")
    assert answer.code == 4
    table = scores(folder / "scores" / "damaged_openbhb.tsv")
    assert len(table) == 12
    lost = table[table["status"] != "scored"]
    assert len(lost) >= 10, "ten people have fMRI in the damaged chunk"
    assert set(lost["brain_age"]) == {""}
    assert lost["reason"].str.contains("fmri/table is damaged").all()


def test_the_store_of_other_people_is_converted_inspected_and_verified(
    brainage: Brainage, tmp_path: Path
) -> None:
    planted_store(tmp_path, people=10)
    assert brainage("verify", "planted.zarr").text.endswith("every scan is as it was written")
    answer = brainage("inspect", "planted.zarr")
    assert answer.code == 0
    assert "10 of 10 people" in answer.text
    assert "smri/table" in answer.text
