"""A job's file, and what of submitit it is written and submitted with."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import submitit
from pretended_slurm import pretend_slurm
from submitit.slurm import slurm as of_slurm

from hpc_brainage.cluster.sbatch import Batch, of_submitit
from hpc_brainage.errors import EnvironmentLacks

CHANGED = (
    f"submitit {submitit.__version__} has changed what hpc_brainage/cluster/sbatch.py calls, which is not"
    " part of what it promises to keep: change the call, or the bound in pyproject.toml"
)


def batch(folder: Path) -> Batch:
    asked = {"partition": "gpu", "nodes": 2, "ntasks_per_node": 4, "signal_delay_s": 90, "time": 10}
    return Batch("a job", folder, asked, 1.5, ("module load x",), {"mail-type": "END"})


def test_submitit_has_what_it_is_called_for(tmp_path: Path) -> None:
    write, submit = of_submitit()
    taken = inspect.signature(write).parameters
    assert list(taken)[:2] == ["command", "folder"], CHANGED
    asked = {
        "partition", "account", "qos", "constraint", "exclude", "time", "cpus_per_task", "nodes",
        "ntasks_per_node", "gpus_per_node", "signal_delay_s",
    }  # fmt: skip
    missing = (asked | set(batch(tmp_path)._parameters())) - set(taken)
    assert not missing, f"{CHANGED}: {missing}"
    assert list(inspect.signature(submit).parameters) == ["self", "command"], CHANGED


def test_the_file_is_what_was_asked_for_and_one_line_of_submitit_s_own(tmp_path: Path) -> None:
    text = batch(tmp_path).text("first\nsecond")
    header, _, command = text.partition("# command\n")
    assert command == "export SUBMITIT_EXECUTOR=slurm\nfirst\nsecond\n", CHANGED
    assert set(header.splitlines()) == {
        "#!/bin/bash", "", "# Parameters", "# setup", "module load x", "#SBATCH --partition=gpu",
        "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --signal=USR2@90",
        "#SBATCH --mem=1536M", "#SBATCH --time=10", "#SBATCH --job-name='a job'",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue", "#SBATCH --mail-type=END", f"#SBATCH --output={tmp_path}/job-%j.log",
    }, CHANGED  # fmt: skip


def test_what_is_submitted_is_what_a_dry_run_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = pretend_slurm(tmp_path, monkeypatch)
    assert batch(tmp_path).submit("true", {}) == "100", CHANGED
    assert (slurm / "job-1").read_text() == batch(tmp_path).text("true"), CHANGED


def test_what_the_file_says_goes_above_what_the_environment_asks_of_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = pretend_slurm(tmp_path, monkeypatch)
    hidden = {
        "PARTITION", "ACCOUNT", "QOS", "CONSTRAINT", "TIMELIMIT", "OUTPUT", "ERROR", "OPEN_MODE", "REQUEUE",
        "NO_REQUEUE", "SIGNAL", "JOB_NAME", "ARRAY_INX", "WAIT", "MEM_PER_CPU", "MEM_PER_NODE", "MAIL_TYPE",
    }  # fmt: skip
    counts = {"RESERVATION", "GPUS_PER_NODE"}
    for name in hidden | counts:
        monkeypatch.setenv(f"SBATCH_{name}", "1")
    batch(tmp_path).submit("true", {})
    reached = {line.partition("=")[0] for line in (slurm / "env-1").read_text().splitlines()}
    assert {name for name in reached if name.startswith("SBATCH_")} == {f"SBATCH_{name}" for name in counts}
    assert os.environ["SBATCH_WAIT"] == "1"


@pytest.mark.parametrize(
    ("owner", "name"), [(of_slurm, "_make_sbatch_string"), (submitit.SlurmExecutor, "_submit_command")]
)
def test_a_submitit_without_it_is_said_with_one_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    kinds = owner.__mro__ if isinstance(owner, type) else (owner,)
    for kind in kinds:
        if name in vars(kind):
            monkeypatch.delattr(kind, name)
    with pytest.raises(EnvironmentLacks, match="submits no shell command any more") as lacking:
        batch(tmp_path).text("true")
    assert "submitit==1.5" in str(lacking.value)
    assert submitit.__version__ in str(lacking.value)
