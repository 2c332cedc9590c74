"""Codes and contributions of scored people, and the choices of `brainage score` from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_cohort, planted_store
from test_runner import SETTINGS, train
from typer.testing import CliRunner

from hpc_brainage.cli.main import app
from hpc_brainage.config import load_config
from hpc_brainage.conversion.convert import convert
from hpc_brainage.errors import ModelError, UsageError
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.codes import codes_of
from hpc_brainage.scoring.contributions import COLUMNS, contributions, groups_in, refuse_volumes
from hpc_brainage.scoring.further import Further
from hpc_brainage.scoring.predictor import Predictor
from hpc_brainage.store.reader import Store
from hpc_brainage.training.records import RunFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and the store that it was trained on."""
    folder = tmp_path_factory.mktemp("further")
    store = planted_store(folder)
    run = RunFolder.prepare(folder / "runs" / "planted", load_config(None, SETTINGS), store, None)
    return train(run), store


@pytest.fixture(scope="module")
def cases(trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(
        planted_cohort(60, seed=1, name="cases"), tmp_path_factory.mktemp("c") / "c.zarr"
    ).store_path


def predictor(model: Path, store: Path) -> Predictor:
    opened, bundle = Store.open(store), load_bundle(model)
    return Predictor(bundle, opened, match_roles(opened, bundle.info), "test")


def test_somebody_new_has_codes_of_each_fold_s_member_and_absent_modalities_none(
    trained: tuple[Path, Path], cases: Path
) -> None:
    one = predictor(trained[0], cases)
    codes = codes_of(one, np.arange(60))
    assert len(codes) == 3 * 60
    assert codes["member"].tolist() == [0] * 60 + [1] * 60 + [2] * 60
    assert not codes["in_training"].any()
    names = [
        f"{role}_{part}_{i}"
        for role in ("smri", "fmri")
        for part in ("shared", "distinct")
        for i in range(4)
    ]
    assert list(codes.columns[6:]) == names
    assert codes["participant_id"][:60].tolist() == one.store.scans["participant_id"].tolist()
    without_fmri = ~one.store.present("fmri/table")[:60]
    for member in range(3):
        own = codes[codes["member"] == member].reset_index(drop=True)
        np.testing.assert_array_equal(own["fmri_shared_0"].isna(), without_fmri)
        assert own["smri_shared_0"].isna().sum() == 2


def test_codes_are_the_means_that_the_encoder_gives(trained: tuple[Path, Path], cases: Path) -> None:
    one = predictor(trained[0], cases)
    block = one.read(np.arange(5, 10))
    assert (block.fold == -1).all()
    member = one.bundle.members[1]
    ready, here, _ = member.prepare(one.bundle.inputs_of(1, block.x), block.present)
    with torch.no_grad():
        mean = member.network.encode(ready, here)["smri"].mu
    codes = codes_of(one, np.arange(60))
    own = codes[codes["member"] == 1].iloc[5:10]
    np.testing.assert_allclose(own["smri_shared_2"], mean[:, 2], rtol=1e-5)
    np.testing.assert_allclose(own["smri_distinct_1"], mean[:, 5], rtol=1e-5)


def test_somebody_of_the_training_has_codes_of_the_member_that_never_saw_them(
    trained: tuple[Path, Path],
) -> None:
    codes = codes_of(predictor(*trained), np.arange(120))
    assert len(codes) == 120
    assert codes["in_training"].all()
    fold = pd.read_csv(
        trained[0].parent / "held_out.tsv", sep="\t", dtype={"participant_id": str}
    ).set_index("participant_id")["fold"]
    assert (codes["fold"].to_numpy() == fold[codes["participant_id"]].to_numpy()).all()


def test_contributions_add_up_to_what_is_above_the_baseline(
    trained: tuple[Path, Path], cases: Path
) -> None:
    """Of people with both modalities, the mean contributions sum up to the mean of age minus baseline."""
    one = predictor(trained[0], cases)
    rows = np.arange(2, 50)
    found = contributions(one, rows, np.full(len(rows), "x", dtype=object))
    assert list(found.columns) == list(COLUMNS)
    everybody = found[found["group"] == "all"].drop(columns="group").reset_index(drop=True)
    pd.testing.assert_frame_equal(
        everybody, found[found["group"] == "x"].drop(columns="group").reset_index(drop=True)
    )
    assert set(found["n"]) == {48}
    assert len(everybody) == sum(len(own) for own in one.bundle.info.features.values())
    present = one.read(rows).present
    table = one.score(rows)
    sex = torch.tensor([0 if s == "F" else 1 for s in table["sex"]])
    baseline = np.mean(
        [
            member.predict(
                {r: member.front_ends[r].mean_F.expand(len(rows), -1) for r in one.bundle.roles},
                present,
                sex,
            ).age.numpy()
            for member in one.bundle.members
        ],
        axis=0,
    )
    above = table["brain_age"].to_numpy() - baseline
    assert everybody["mean_contribution_years"].sum() == pytest.approx(above.mean(), abs=0.05)
    assert (
        everybody["mean_absolute_contribution_years"] >= everybody["mean_contribution_years"].abs() - 1e-9
    ).all()


def test_groups_differ_where_their_ages_do(trained: tuple[Path, Path], cases: Path) -> None:
    one = predictor(trained[0], cases)
    age = one.store.scans["age"].to_numpy()
    found = contributions(one, np.arange(60), np.where(age > 45, "old", "young").astype(object))
    sums = found.groupby("group")["mean_contribution_years"].sum()
    assert sums["old"] > 5
    assert sums["young"] < -5
    counts = found.groupby(["group", "role"])["n"].first()
    assert counts["all", "smri"] == 58
    assert counts["old", "fmri"] + counts["young", "fmri"] == counts["all", "fmri"] == 50
    order = found[(found["group"] == "old") & (found["role"] == "smri")]["mean_absolute_contribution_years"]
    assert order.is_monotonic_decreasing


def test_groups_are_columns_of_few_values() -> None:
    scans = planted_cohort(30).scans
    scans.loc[0, "diagnosis"] = ""
    groups = groups_in(scans, "diagnosis")
    assert groups[0] == "unknown"
    assert set(groups) <= {"unknown", "case", "control"}
    with pytest.raises(UsageError, match="no such column") as raised:
        groups_in(scans, "diagnose")
    assert "diagnosis" in str(raised.value)
    with pytest.raises(UsageError, match="30 values are no groups"):
        groups_in(scans, "age")


def test_a_model_of_volumes_has_no_contributions_here(trained: tuple[Path, Path]) -> None:
    info = load_bundle(trained[0]).info
    refuse_volumes(info)
    with pytest.raises(ModelError, match="takes a volume"):
        refuse_volumes(info.model_copy(update={"volumes": {"smri": (4, 4, 4)}}))


def score(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["score", *map(str, arguments), "--workers", "1"])
    assert done.exit_code in (0, 4), done.output
    return done.output


def test_files_of_an_earlier_table_do_not_stay_beside_a_new_one(
    trained: tuple[Path, Path], cases: Path, tmp_path: Path
) -> None:
    store, rows, out = Store.open(cases), np.arange(10), tmp_path / "out"
    both = Further(codes=True, contributions="sex").write(store, trained[0], rows, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in both.values())
    one = Further(contributions="site").write(store, trained[0], rows, out)
    assert list(tmp_path.iterdir()) == [one["contributions"]]
    assert Further().write(store, trained[0], rows, out) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_choice_reaches_the_table_the_sidecar_and_the_files(
    trained: tuple[Path, Path], cases: Path, tmp_path: Path
) -> None:
    model, _ = trained
    new_site = planted_cohort(40, seed=5, name="locals")
    new_site.scans["site"] = "new"
    locals_store = convert(new_site, tmp_path / "locals.zarr").store_path
    score(locals_store, "--model", model, "--out", tmp_path / "controls")
    study = planted_cohort(60, seed=6, name="study")
    study.scans["site"] = "new"
    store = convert(study, tmp_path / "study.zarr").store_path
    said = score(
        store, "--model", model, "--out", tmp_path / "study", "--bias", "cole",
        "--site-calibration", tmp_path / "controls", "--codes", "--contributions", "diagnosis",
    )  # fmt: skip
    assert "study_codes.parquet" in said
    table = pd.read_parquet(tmp_path / "study.parquet")
    said = r"\d+ local controls (with .+|\(.+\)) around the (norms|bias line)"
    calibrated = table["site_calibration"].str.fullmatch(said)
    assert calibrated.any()
    assert table["site_calibration"][~calibrated].str.startswith("none: ").all()
    assert (table["bag_site_calibrated"].notna() == calibrated).all()
    assert set(table["bias_method"]) == {"cole"}
    about = json.loads((tmp_path / "study.json").read_text())
    assert about["files"] == {"codes": "study_codes.parquet", "contributions": "study_contributions.tsv"}
    assert about["bias"]["method"] == "cole"
    assert "new" in about["site_calibration"]["around_bias_line"]
    assert "shrunk" in about["columns"]["site_offset"]
    assert len(pd.read_parquet(tmp_path / "study_codes.parquet")) == 180
    found = pd.read_csv(tmp_path / "study_contributions.tsv", sep="\t")
    assert list(found.columns) == list(COLUMNS)
    assert set(found["group"]) == {"all", "case", "control"}
    said = score(
        store, "--model", model, "--out", tmp_path / "own", "--fit-bias-on-cohort",
        "--controls", "diagnosis == 'control'",
    )  # fmt: skip
    assert "WARNING: the bias line was fitted on the scored scans themselves" in said
    own = pd.read_parquet(tmp_path / "own.parquet")
    assert set(own["bias_fit"]) == {"in_cohort"}
    assert "site_offset" not in own
    done = CliRunner().invoke(
        app,
        ["score", str(store), "--model", str(model), "--out", str(tmp_path / "x"), "--site-calibration",
         str(tmp_path / "study")],
    )  # fmt: skip
    assert done.exit_code == 2
    assert not (tmp_path / "x.parquet").exists()
