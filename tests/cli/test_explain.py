"""`brainage explain`, typed as a user types it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from cli.commands import TINY, Answer, Brainage, type_command
from planted import GRID, planted_cohort, planted_store

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.convert import convert

Trained = tuple[Path, Answer]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
KINDS = ("shared", "distinct")
AFFINE = ((10.0, 0, 0, -60), (0, 10.0, 0, -90), (0, 0, 10.0, -50), (0, 0, 0, 1.0))


def number_table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / f"{name}.tsv", sep="\t")


@pytest.fixture(scope="module")
def explained(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """What `brainage explain` wrote about the trained run, and what it said."""
    out = tmp_path_factory.mktemp("explained")
    answer = type_command(trained[0], "explain", "runs/openbhb", "--shuffles", 3, "--out", out)
    assert answer.code == 0, answer.text
    return out, answer


def test_everybody_is_judged_by_the_member_that_never_saw_them(
    trained: Trained, explained: tuple[Path, Answer]
) -> None:
    said = pd.read_csv(trained[0] / "runs/openbhb/held_out.tsv", sep="\t")
    error = (said["brain_age"] - said["age"]).abs().groupby(said["sex"]).mean()
    found = number_table(explained[0], "sex_error").set_index("sex")["mae"]
    assert found.to_dict() == pytest.approx(error.to_dict(), rel=1e-5)
    assert "60 scans of 60 people of the training" in explained[1].text


def test_every_question_is_answered_in_words_numbers_and_figures(explained: tuple[Path, Answer]) -> None:
    out, answer = explained
    for word in ("distinct fmri", "missed share of the variance", "moved by the other sex", "smri region"):
        assert word in answer.text
    probes = number_table(out, "codes")
    assert set(probes["code"]) >= {"shared smri", "distinct fmri", "all", "components"}
    assert set(probes["target"]) == {"age", "sex", *(f"{k} {r}" for k in KINDS for r in ("smri", "fmri"))}
    assert "which site a code is of could not be asked" in answer.text, "20 people of each, two folds"
    assert probes.groupby("code", sort=False).ngroups == (probes["code"] != probes["code"].shift()).sum()
    assert list(number_table(out, "rebuilding")["rebuilt"]) == ["smri", "fmri"]
    assert dict(number_table(out, "modalities")[["role", "n"]].to_numpy()) == {"smri": 58, "fmri": 50}
    assert len(number_table(out, "features")) == 50, "all of them, not the top of a report"
    for name, heading in (("codes", "What is rebuilt"), ("sex", "Error by sex"), ("importance", "Regions")):
        text = (out / f"{name}.md").read_text()
        assert heading in text
        assert "## Notes" in text
    for role in ("smri", "fmri"):
        assert (out / f"figures/{role}_regions.png").read_bytes().startswith(b"\x89PNG")


def test_by_default_it_lies_in_the_newest_run(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained[0] / "runs", tmp_path / "runs", symlinks=True)
    answer = type_command(tmp_path, "explain", "--shuffles", 1)
    assert answer.code == 0, answer.text
    assert (tmp_path / "runs/openbhb/explain/codes.md").is_file()
    assert "What the codes of openbhb know" in (tmp_path / "runs/openbhb/explain/codes.md").read_text()


def test_of_an_ensemble_the_mean_of_each_fold_s_members_is_asked(
    brainage: Brainage, tmp_path: Path
) -> None:
    planted_store(tmp_path, 60, name="people")
    trained = brainage("train", "people.zarr", "--name", "many", *SETTINGS, "--set", "training.ensemble=2")
    assert trained.code == 0, trained.text
    answer = brainage("explain", "runs/many", "--shuffles", 1)
    assert answer.code == 0, answer.text
    assert "each by the 2 members that never saw the person; codes are those of the first" in answer.text
    said = pd.read_csv(tmp_path / "runs/many/held_out.tsv", sep="\t")
    error = (said["brain_age"] - said["age"]).abs().groupby(said["sex"]).mean()
    found = number_table(tmp_path / "runs/many/explain", "sex_error").set_index("sex")["mae"]
    assert found.to_dict() == pytest.approx(error.to_dict(), rel=1e-5)


def test_a_run_whose_store_was_moved_is_explained_and_evaluated_from_its_new_place(
    trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "runs/openbhb"
    shutil.copytree(trained[0] / "runs/openbhb", run)
    request = json.loads((run / "request.json").read_text())
    shutil.copytree(request["store"], tmp_path / "moved.zarr")
    (run / "request.json").write_text(json.dumps(request | {"store": str(tmp_path / "gone.zarr")}))
    for verb in ("explain", "evaluate"):
        lost = type_command(tmp_path, verb, run)
        assert lost.code == 3
        assert "if it was moved, say where it lies now, after the run" in lost.text
    planted_store(tmp_path, 20, name="another")
    wrong = type_command(tmp_path, "evaluate", run, "another.zarr")
    assert wrong.code == 3
    assert "this is not the store that the run was trained on" in wrong.text
    found = type_command(tmp_path, "evaluate", run, "moved.zarr")
    assert found.code == 0, found.text
    asked = type_command(tmp_path, "explain", run, "moved.zarr", "--shuffles", 1)
    assert asked.code == 0, asked.text


def test_a_model_of_one_modality_and_one_sex_is_asked_what_it_can_be(
    brainage: Brainage, tmp_path: Path
) -> None:
    planted_store(tmp_path, 60, name="people")
    words = ["--where", "sex == 'M'", "--set", "fmri.use=false"]
    assert brainage("train", "people.zarr", "--name", "men", *SETTINGS, *words).code == 0
    answer = brainage("explain", "runs/men", "--shuffles", 1)
    assert answer.code == 0, answer.text
    assert "what sex does could not be asked: of known sex are: M" in answer.text
    out = tmp_path / "runs/men/explain"
    assert "what sex does could not be asked" in (out / "sex.md").read_text()
    assert set(number_table(out, "codes")["target"]) == {"age"}
    assert not (out / "tables/rebuilding.tsv").exists()
    assert set(number_table(out, "regions")["role"]) == {"smri"}


def test_where_nobody_has_both_modalities_the_rest_is_answered(brainage: Brainage, tmp_path: Path) -> None:
    cohort = planted_cohort(60, name="apart")
    first = np.arange(60) < 30
    sources = {
        key: replace(source, present=first if key.startswith("smri") else ~first)
        for key, source in cohort.sources.items()
    }
    convert(replace(cohort, sources=sources), tmp_path / "apart.zarr")
    trained = brainage("train", "apart.zarr", "--name", "apart", *SETTINGS)
    assert trained.code == 0, trained.text
    answer = brainage("explain", "runs/apart", "--shuffles", 1)
    assert answer.code == 0, answer.text
    assert "too few people have both modalities" in answer.text
    assert "too few people have all modalities" in answer.text
    assert set(number_table(tmp_path / "runs/apart/explain", "spread")["code"]) >= {"shared smri"}
    assert len(number_table(tmp_path / "runs/apart/explain", "sex_error")) == 2


def test_a_volume_s_importance_is_an_image_in_its_place(brainage: Brainage, tmp_path: Path) -> None:
    cohort: Cohort = planted_cohort(40, volumes=True, name="volumes")
    source = cohort.sources["smri/vbm"]
    placed = replace(source, modality=replace(source.modality, affine=AFFINE))
    convert(replace(cohort, sources={"smri/vbm": placed}), tmp_path / "volumes.zarr")
    words = ["--set", "smri.tables=['vbm']", "--set", "smri.encoder=sfcn", "--set", "fmri.use=false"]
    trained = brainage(
        "train", "volumes.zarr", "--name", "v", *SETTINGS, *words, "--set", "smri.hidden=[4,8]"
    )
    assert trained.code == 0, trained.text
    refused = brainage("explain", "runs/v", "--atlas", "smri=atlas.nii.gz")
    assert refused.code == 2
    assert "an atlas is for a modality whose features are regions" in refused.err
    answer = brainage("explain", "runs/v", "--shuffles", 1)
    assert answer.code == 0, answer.text
    out = tmp_path / "runs/v/explain"
    for name in ("mean", "mean_abs"):
        image = nibabel.load(out / f"maps/smri_{name}.nii.gz")
        assert image.shape == GRID
        np.testing.assert_array_equal(image.affine, AFFINE)
    mean_abs = np.asarray(image.dataobj)
    assert mean_abs.min() >= 0
    assert mean_abs.max() > 0
    assert (out / "figures/smri_map.png").is_file()
    assert "every voxel has its years" in (out / "importance.md").read_text()


def test_an_atlas_puts_the_regions_on_a_brain(trained: Trained, tmp_path: Path) -> None:
    labels = np.zeros((12, 14, 12), dtype=np.int16)
    labels[2:5, 4:9, 3:8], labels[7:10, 4:9, 3:8] = 1, 2
    nibabel.Nifti1Image(labels, np.array(AFFINE)).to_filename(tmp_path / "atlas.nii.gz")
    (tmp_path / "atlas.tsv").write_text("index\tname\n1\tsmri region 0\n2\tsmri region 7\n")
    words = ["--shuffles", 1, "--out", tmp_path / "out", "--atlas", f"smri={tmp_path / 'atlas.nii.gz'}"]
    answer = type_command(trained[0], "explain", "runs/openbhb", *words)
    assert answer.code == 0, answer.text
    assert (tmp_path / "out/figures/smri_map.png").is_file()
    assert not (tmp_path / "out/figures/fmri_map.png").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 3, "there is no run here"),
        (["runs/openbhb", "--atlas", "smri"], 2, "expected: smri=IMAGE or fmri=IMAGE"),
        (["runs/openbhb", "--atlas", "pet=a.nii.gz"], 2, "an atlas is for a modality"),
        (["runs/openbhb", "--atlas", "smri=a.nii.gz"], 2, "the file is missing"),
        (["runs/openbhb", "--shuffles", 0], 2, "--shuffles"),
    ],
)
def test_what_cannot_be_explained_is_said_before_anything_is_computed(
    words: list[object], code: int, message: str, trained: Trained, tmp_path: Path
) -> None:
    answer = type_command(trained[0], "explain", *words, "--out", tmp_path / "out")
    assert answer.code == code
    assert message in answer.text
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished_or_whose_store_has_changed_is_refused(
    trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "runs/openbhb"
    shutil.copytree(trained[0] / "runs/openbhb", run)
    request = json.loads((run / "request.json").read_text())
    (run / "request.json").write_text(json.dumps(request | {"content_sha256": "another"}))
    changed = type_command(tmp_path, "explain", "runs/openbhb")
    assert changed.code == 3
    assert "the store has changed since the run was trained" in changed.err
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running"}))
    unfinished = type_command(tmp_path, "explain", "runs/openbhb")
    assert unfinished.code == 3
    assert "the same `brainage train` again goes on with it" in unfinished.text


def test_held_out_predictions_of_other_people_are_refused(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "runs/openbhb"
    shutil.copytree(trained[0] / "runs/openbhb", run)
    said = pd.read_csv(run / "held_out.tsv", sep="\t", dtype=str, keep_default_na=False)
    said.iloc[::-1].to_csv(run / "held_out.tsv", sep="\t", index=False)
    answer = type_command(tmp_path, "explain", "runs/openbhb")
    assert answer.code == 3
    assert "held-out predictions of other scans" in answer.err
