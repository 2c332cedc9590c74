"""Another thing lies at a path than the command takes: it is said what it is, and what may be meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli.commands import TINY, Answer, Brainage, type_command
from conversion.synthetic import cohort_of, features, measurements, people
from planted import planted_cohort, planted_store

from hpc_brainage.conversion.convert import convert

Trained = tuple[Path, Answer]
FINISHED = "finished runs: runs/openbhb"


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("runs/nope", ("there is no run here", FINISHED)),
        ("nope", ("there is no run here", FINISHED)),
        ("runs", ("this folder holds runs, and is none", FINISHED)),
        ("openbhb.zarr", ("this is a store, and not a run", FINISHED)),
        ("runs/openbhb/model", ("this is a model, without the people", "runs/openbhb")),
        ("runs/openbhb/checkpoints", ("this is not a run of hpc_brainage", FINISHED)),
    ],
)
def test_what_is_no_finished_run_is_called_what_it_is(
    verb: str, path: str, said: tuple[str, ...], trained: Trained
) -> None:
    answer = type_command(trained[0], verb, path)
    assert answer.code == 3
    for words in said:
        assert words in answer.text
    assert "goes on with it" not in answer.text


def test_an_unfinished_run_can_be_gone_on_with(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "half"
    run.mkdir(parents=True)
    for name in ("request.json", "config.toml"):
        shutil.copy(trained[0] / "runs" / "openbhb" / name, run)
    (run / "status.json").write_text('{"state": "stopped"}')
    answer = type_command(tmp_path, "evaluate", "runs/half")
    assert answer.code == 3
    assert "this run is not finished (stopped)" in answer.text
    assert "goes on with it" in answer.text
    assert "none of them is finished" in type_command(tmp_path, "evaluate", "runs").text


@pytest.mark.parametrize("verb", ["score", "train", "inspect", "verify"])
@pytest.mark.parametrize("path", ["runs/openbhb", "runs/openbhb/model"])
def test_a_run_in_the_place_of_a_store_is_called_a_run(verb: str, path: str, trained: Trained) -> None:
    answer = type_command(trained[0], verb, path)
    assert answer.code == 3
    assert "this is a run or a model, and not a store" in answer.text
    assert f"brainage score STORE --model {path}" in answer.text


def test_what_can_never_be_trained_leaves_no_run_behind(brainage: Brainage, tmp_path: Path) -> None:
    planted_store(tmp_path, 20, name="aged")
    ageless = planted_cohort(20, name="ageless")
    ageless.scans["age"] = float("nan")
    convert(ageless, tmp_path / "ageless.zarr")
    settings = [word for setting in TINY for word in ("--set", setting)]
    for words, said in (
        (("aged.zarr", "--where", "age > 200"), "age is from"),
        (("ageless.zarr",), "20 scans have no age"),
    ):
        answer = brainage("train", *words, *settings)
        assert answer.code in (2, 3)
        assert said in answer.text
    assert not (tmp_path / "runs").exists()


def test_a_store_with_nothing_of_the_model_is_not_told_to_do_without_it(
    trained: Trained, tmp_path: Path
) -> None:
    table = features(5, "desikan")
    convert(cohort_of(people(8), {table: measurements(table, 8)}), tmp_path / "other.zarr")
    answer = type_command(trained[0], "score", tmp_path / "other.zarr", "--out", tmp_path / "out")
    assert answer.code == 3
    assert "without smri" not in answer.text
