"""What the command line offers: its verbs, their options, and a quick answer to --help."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from cli.commands import Brainage
from typer.main import get_command

from hpc_brainage.cli.main import app

SURFACE = Path(__file__).parent / "surface.txt"
VERBS = (
    "convert",
    "inspect",
    "verify",
    "train",
    "jobs",
    "logs",
    "cancel",
    "resume",
    "evaluate",
    "ablate",
    "explain",
    "score",
    "compare",
    "report",
    "simulate",
    "demo",
    "doctor",
)
BRAINAGE = [sys.executable, "-c", "from hpc_brainage.cli.main import run; run()"]


def surface() -> str:
    """One line for each argument and option of each verb."""
    lines = []
    for verb, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            names = " ".join(sorted(parameter.opts + parameter.secondary_opts))
            lines.append(f"{verb} {names.upper() if parameter.param_type_name == 'argument' else names}")
    return "\n".join(lines) + "\n"


def test_options_are_the_ones_that_were_agreed_on() -> None:
    """Scripts of users hold these names: whoever changes one means it, and says so in the CHANGELOG."""
    assert surface() == SURFACE.read_text(), (
        "the options have changed; if that is meant, write them down again:\n"
        "    cd tests && python -c 'from cli import test_surface as t; t.SURFACE.write_text(t.surface())'"
    )


def test_the_verbs_are_the_documented_ones(brainage: Brainage) -> None:
    answer = brainage("--help")
    assert answer.code == 0
    assert tuple(get_command(app).commands) == VERBS  # type: ignore[attr-defined]
    assert all(verb in answer.out for verb in VERBS)
    assert "Exit codes: 0 done" in answer.text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_every_option_has_help(verb: str, brainage: Brainage) -> None:
    answer = brainage(verb, "-h")
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert answer.code == 0
    assert len(command.help.split()) > 3
    assert [parameter.name for parameter in command.params if not parameter.help] == []


def test_no_verb_at_all_shows_the_help(brainage: Brainage) -> None:
    answer = brainage()
    assert answer.code == 2
    assert "Usage: brainage" in answer.text


def test_the_version_is_said(brainage: Brainage) -> None:
    assert brainage("--version").out.startswith("brainage ")


def test_help_takes_less_than_half_a_second_of_computing() -> None:
    """Seconds of CPU, not of the clock: a busy machine must not fail this. Median of five."""
    seconds = []
    for _ in range(5):
        process = subprocess.Popen([*BRAINAGE, "--help"], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(used.ru_utime + used.ru_stime)
    assert statistics.median(seconds) < 0.5


def test_doctor_names_every_part_and_what_lacking_it_costs(brainage: Brainage) -> None:
    answer = brainage("doctor")
    assert answer.code == 0
    for part in (
        "Python", "torch", "CUDA devices", "Triton", "DeepSpeed", "C++ compiler", "SLURM", "cores",
        "memory", "disk here",
    ):  # fmt: skip
        assert f" {part} " in answer.text


def test_doctor_says_what_a_machine_without_anything_lacks(
    brainage: Brainage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("hpc_brainage.cli.doctor._installed", lambda package: "")
    monkeypatch.setitem(sys.modules, "torch", None)
    answer = brainage("doctor")
    assert answer.code == 0
    assert answer.text.count("missing") >= 5
    assert "nothing can be trained: install deepspeed" in answer.text
    assert "--nodes needs a cluster's login node" in answer.text


def test_a_slurm_that_reaches_no_cluster_is_no_cluster(
    brainage: Brainage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'fatal: no configuration source' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no cluster" in brainage("doctor").text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["inspect", "nowhere.zarr"], 3, "there is no store here"),
        (["convert"], 2, "nothing to convert"),
        (["convert", "--bogus"], 2, "No such option"),
    ],
)
def test_a_process_ends_with_the_documented_code(
    words: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = subprocess.run([*BRAINAGE, *words], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_job_s_process_without_a_run_says_how_it_is_started(tmp_path: Path) -> None:
    for words, code in (([], 2), (["nowhere"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "hpc_brainage.cli.worker", *words],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "where", "said"),
    [
        (("verify", "x.zarr"), "store.verify.verify", "the same command again begins anew"),
        (("evaluate", "runs/x"), "evaluation.evaluate.evaluate_run", "again begins anew"),
        (("explain", "runs/x"), "evaluation.explain.judged_members", "again begins anew"),
        (("train", "x.zarr"), "training.records.RunFolder.prepare", "where training was saved last"),
        (("convert", "x.csv"), "cohorts.recipe.open_cohort", "goes on with the parts"),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(
    words: tuple[str, ...], where: str, said: str, brainage: Brainage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*what: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"hpc_brainage.{where}", interrupted)
    answer = brainage(*words)
    assert answer.code == 130
    assert answer.err.startswith("interrupted; ")
    assert said in answer.err


def test_a_full_disk_is_said_in_words(brainage: Brainage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*what: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hpc_brainage.store.verify.verify", full)
    answer = brainage("verify", "x.zarr")
    assert answer.code == 5
    assert "No space left on device" in answer.err


def test_an_error_of_ours_is_not_hidden(brainage: Brainage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect shows itself with its traceback; only what a user can act on is a message."""

    def broken(*what: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("hpc_brainage.store.verify.verify", broken)
    with pytest.raises(ZeroDivisionError):
        brainage("verify", "x.zarr")
