"""What is read of SLURM's own words: its partitions, and the states of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretended_slurm import pretend_slurm

from hpc_brainage.cluster import slurm as of_slurm
from hpc_brainage.cluster.slurm import (
    JobState,
    Nodes,
    Partition,
    cancel,
    job_states,
    read_partitions,
    settled_state,
)
from hpc_brainage.errors import EnvironmentLacks


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return pretend_slurm(tmp_path, monkeypatch)


def sinfo_says(folder: Path, *lines: str) -> None:
    (folder.parent / "programs" / "sinfo").write_text(
        "#!/bin/sh\n" + "\n".join(f"echo '{line}'" for line in lines)
    )


def test_a_partition_is_what_its_nodes_are(slurm: Path) -> None:
    main, long, gpu = read_partitions()
    assert main == Partition("main", (Nodes(4, 8, 16000, 0),), 24 * 60, True)
    assert (long.minutes, long.is_default) == (None, False)
    assert gpu.kinds == (Nodes(2, 32, 256000, 4),)
    assert str(gpu) == "gpu (2 nodes, 4 GPUs each)"


def test_nodes_of_several_kinds_are_one_partition(slurm: Path) -> None:
    sinfo_says(slurm, "a|2|8|16000|(null)|30:00", "a|1|64|512000|gpu:2,gpu:v100:1|30:00", "odd line")
    (found,) = read_partitions()
    assert (found.nodes, found.minutes) == (3, 30)
    assert [kind.gpus for kind in found.kinds] == [0, 3]


def test_thousands_of_nodes_are_counted(slurm: Path) -> None:
    sinfo_says(slurm, "big|1.5K|8|16000|(null)|infinite")
    assert read_partitions()[0].nodes == 1500


def test_a_job_is_looked_for_in_the_queue_and_then_in_the_accounts(slurm: Path) -> None:
    (slurm / "queue").write_text(
        "7|PENDING|Resources|1:00:00|\n8|RUNNING|None|0:10|node[1-2]\n9|FAILED|NonZeroExitCode|0:00|node1\n"
    )
    (slurm / "accounts").write_text("10|CANCELLED by 1000\n9|FAILED\n")
    found = job_states(["7", "8", "9", "10", "11"])
    assert found["7"] == JobState("PENDING", "Resources", "1:00:00", "")
    assert found["8"] == JobState("RUNNING", "", "0:10", "node[1-2]")
    assert (found["9"].state, found["10"].state, found["11"].state) == ("FAILED", "CANCELLED", "")
    assert [found[job].is_over for job in ("7", "8", "9", "10", "11")] == [False, False, True, True, True]


def test_a_job_that_was_preempted_is_over_unless_it_comes_back(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the site cancels what it preempts, nobody queues the job again."""
    looks: list[float] = []
    monkeypatch.setattr(of_slurm, "sleep", looks.append)
    (slurm / "accounts").write_text("7|PREEMPTED\n")
    assert settled_state("7").is_over
    assert len(looks) == 4

    def comes_back(seconds: float) -> None:
        (slurm / "queue").write_text("7|PENDING|BeginTime|1:00:00|\n")

    monkeypatch.setattr(of_slurm, "sleep", comes_back)
    assert settled_state("7").state == "PENDING"


def test_a_slurm_that_does_not_answer_has_not_forgotten_the_job(slurm: Path) -> None:
    (slurm.parent / "programs" / "squeue").write_text("#!/bin/sh\necho 'Unable to contact' >&2; exit 1")
    (slurm / "accounts").write_text("7|COMPLETED\n")
    state = job_states(["7"])["7"]
    assert (state.is_known, state.is_over) == (False, False)
    with pytest.raises(EnvironmentLacks, match="does not answer"):
        settled_state("7")


def test_nothing_is_asked_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert read_partitions() == []
    assert job_states(["7"]) == {"7": JobState("")}
    assert job_states([]) == {}
    with pytest.raises(EnvironmentLacks, match="cannot be asked"):
        cancel("7")


def test_a_job_is_cancelled(slurm: Path) -> None:
    cancel("7")
    assert (slurm / "cancelled").read_text() == "7\n"


def test_a_job_that_cannot_be_cancelled_is_said(slurm: Path) -> None:
    (slurm.parent / "programs" / "scancel").write_text("#!/bin/sh\necho 'Invalid job id' >&2; exit 1")
    with pytest.raises(EnvironmentLacks, match="Invalid job id"):
        cancel("7")
