"""`brainage evaluate`, typed as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli.commands import TINY, Answer, Brainage, type_command
from planted import planted_store

Trained = tuple[Path, Answer]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Tiny settings as a file."""
    path, sections = tmp_path / "tiny.toml", {}
    for setting in TINY:
        key, value = setting.split("=")
        section, name = key.split(".")
        quoted = f'"{value}"' if value == "cpu" else value
        sections.setdefault(section, []).append(f"{name} = {quoted}")
    path.write_text("\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items()))
    return path


def test_a_finished_run_is_measured_beside_simple_predictors(trained: Trained, tmp_path: Path) -> None:
    folder, _ = trained
    answer = type_command(folder, "evaluate", "runs/openbhb", "--out", tmp_path)
    assert answer.code == 0, answer.text
    for word in ("SA-AVAE from smri alone", "predicting the mean age", "late fusion"):
        assert word in answer.text
    record = json.loads((tmp_path / "evaluation.json").read_text())
    evidence = json.loads((folder / "runs/openbhb/model/model.json").read_text())["evidence"]
    reached = evidence["everyone"]
    errors = {one["predictor"]: one["mae"]["value"] for one in record["everyone"]}
    assert errors["SA-AVAE"] == pytest.approx(reached["model"]["mae"], abs=1e-6)
    assert errors[evidence["ridge_predictor"]] == pytest.approx(reached["ridge"]["mae"], abs=1e-6)
    assert errors["predicting the mean age"] == pytest.approx(reached["mean_predictor"]["mae"], abs=1e-6)
    assert reached["ridge"]["mae"] <= errors["ridge, smri beside fmri"] + 1e-6
    assert reached["mean_predictor"]["r"] is None
    text = (tmp_path / "evaluation.md").read_text()
    assert record["verdicts"][0] in text
    assert "MAE by sex" in text
    assert answer.text.index("no better than") < answer.text.index("SA-AVAE from smri alone")


def test_the_newest_run_is_recorded_by_its_own_name(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained[0] / "runs", tmp_path / "runs", symlinks=True)
    answer = type_command(tmp_path, "evaluate")
    assert answer.code == 0, answer.text
    record = json.loads((tmp_path / "runs/latest/evaluation.json").read_text())
    assert record["about"]["run"] == "openbhb"


def test_three_epochs_are_called_no_better_than_something_simple(trained: Trained, tmp_path: Path) -> None:
    """A negative result reads as one."""
    folder, _ = trained
    answer = type_command(folder, "evaluate", "runs/openbhb", "--out", tmp_path)
    assert "no better than" in answer.text


def test_a_recipe_is_cross_validated_with_several_seeds(
    brainage: Brainage, recipe: Path, tmp_path: Path
) -> None:
    planted_store(tmp_path, 60, name="people")
    answer = brainage("evaluate", recipe, "people.zarr", "--protocol", "sites", "--seeds", 2)
    assert answer.code == 0, answer.text
    assert "leaving one site out: 60 scans of 60 people, 3 sites, 3 splits, 2 seeds" in answer.text
    record = json.loads((tmp_path / "evaluations/people_tiny_sites/evaluation.json").read_text())
    assert record["models"] == ["SA-AVAE, one network (mean of 2)", "SA-AVAE, ensemble of 2"]
    assert record["about"]["seeds"] == [0, 1]


def test_a_recipe_on_plain_folds_tests_people_with_all_modalities(
    brainage: Brainage, recipe: Path, tmp_path: Path
) -> None:
    planted_store(tmp_path, 60, name="people")
    answer = brainage("evaluate", recipe, "people.zarr", "--protocol", "kfold", "--set", "training.folds=3")
    assert answer.code == 0, answer.text
    assert "KFold(3, shuffle=True, random_state=0), all with smri+fmri: 48 scans" in answer.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no run here"),
        (["tiny.toml"], "a recipe needs a store"),
        (["tiny.toml", "x.zarr", "--protocol", "openbhb"], "for a trained model"),
        (["runs/x", "--seeds", 3], "a finished run is evaluated as it is"),
        (["runs/x", "--where", "age > 20"], "a finished run is evaluated as it is"),
        (["runs/x", "--published", "runs.csv"], "under OpenBHB's protocol only"),
    ],
)
def test_what_does_not_go_together_is_said(
    words: list[object], message: str, brainage: Brainage, recipe: Path
) -> None:
    answer = brainage("evaluate", *words)
    assert answer.code in (2, 3)
    assert message in answer.err


def test_openbhb_s_protocol_asks_for_a_run_of_the_training_split(
    brainage: Brainage, tmp_path: Path
) -> None:
    assert brainage("simulate", "cohort", "--scans", 120, "--volumes", 0).code == 0
    assert brainage("convert", "cohort", "cohort.zarr").code == 0
    settings = [word for setting in TINY for word in ("--set", setting)]
    settings += ["--set", "smri.tables=['vbm_roi']", "--set", "fmri.use=false"]
    assert brainage("train", "cohort.zarr", "--name", "all", *settings).code == 0
    refused = brainage("evaluate", "runs/all", "--protocol", "openbhb")
    assert refused.code == 3
    assert "test splits were trained on" in refused.err
    trained = brainage("train", "cohort.zarr", "--name", "ours", "--where", "split == 'train'", *settings)
    assert trained.code == 0, trained.text
    (tmp_path / "known.csv").write_text(
        "method,kernel,sigma,ramp/int_mae,ramp/ext_mae,ramp/bacc,ramp/score\nexpw,rbf,2,2.552,3.761,5.1,1.54\n"
    )
    answer = brainage("evaluate", "runs/ours", "--protocol", "openbhb", "--published", "known.csv")
    assert answer.code == 0, answer.text
    for word in ("codes of member 1", "codes that say nothing", "ResNet-18, expw, rbf 2", "known.csv"):
        assert word in answer.text
    rows = json.loads((tmp_path / "runs/ours/openbhb.json").read_text())
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)


def test_openbhb_s_protocol_on_a_store_without_its_splits_says_so_at_once(
    trained: Trained, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    answer = type_command(
        trained[0], "evaluate", "runs/openbhb", "--protocol", "openbhb", "--out", tmp_path
    )
    assert answer.code == 2
    assert "the challenge needs three splits" in answer.err
    assert not [warning for warning in recwarn if "mean of empty" in str(warning.message).lower()]


def test_parts_of_the_model_are_taken_away_in_turn(
    brainage: Brainage, recipe: Path, tmp_path: Path
) -> None:
    planted_store(tmp_path, 60, name="people")
    command = ("ablate", recipe, "people.zarr", "--seeds", 2, "--row", "no distance ratio")
    answer = brainage(*command)
    assert answer.code == 0, answer.text
    for word in ("predicted from all they have", "full model", "no distance ratio", "are told apart"):
        assert word in answer.text
    folder = tmp_path / "ablations/people_tiny_folds"
    assert {path.name for path in folder.iterdir()} == {
        "ablation.json", "ablation.md", "ablation.png", "rows",
    }  # fmt: skip
    before = (folder / "ablation.json").read_bytes()
    assert brainage(*command).code == 0
    assert (folder / "ablation.json").read_bytes() == before
    wrong = brainage("ablate", recipe, "people.zarr", "--row", "no distance")
    assert wrong.code == 2
    assert "did you mean 'no distance ratio'" in wrong.text
    assert brainage("ablate", recipe, "people.zarr", "--protocol", "openbhb").code == 2
    idle = brainage("ablate", recipe, "people.zarr", "--set", "model.sex=film", "--row", "sex: film")
    assert idle.code == 2
    assert "this row changes nothing" in idle.text


@pytest.mark.parametrize("verb", ["evaluate", "ablate"])
def test_a_site_without_which_too_few_people_have_a_modality_is_named(
    verb: str, brainage: Brainage, recipe: Path, tmp_path: Path
) -> None:
    """The folds of a run would do; leaving out site A leaves one person with fMRI."""
    people = [f"p{i},{20 + i},{'FM'[i % 2]},{'AB'[i >= 16]}" for i in range(24)]
    (tmp_path / "people.csv").write_text("\n".join(["participant_id,age,sex,site", *people]))
    for name, chosen in (("smri", range(24)), ("fmri", (*range(16), 20))):
        rows = [f"p{i},{i % 7},{i * i % 11},{i % 5}" for i in chosen]
        (tmp_path / f"{name}.csv").write_text("\n".join(["participant_id,a,b,c", *rows]))
    made = brainage(
        "convert", "people.csv", "few.zarr", "--id", "participant_id",
        "--add", "smri=smri.csv", "--add", "fmri=fmri.csv",
    )  # fmt: skip
    assert made.code == 0, made.text
    answer = brainage(verb, recipe, "few.zarr", "--protocol", "sites", "--seeds", 2)
    assert answer.code == 3
    assert "only 1 scans with fmri are left to train on when site A is held out" in answer.text
