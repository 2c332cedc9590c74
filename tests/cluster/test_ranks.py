"""What the environment says once a process has found its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpc_brainage.cluster.ranks import join
from hpc_brainage.cluster.starts import starts_of


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher, and an environment that is put back afterwards."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "BRAINAGE_", "MASTER_", "CUDA_")):
            monkeypatch.delenv(name)
    for name in (
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR",
        "TORCHINDUCTOR_CACHE_DIR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "MASTER_ADDR", "MASTER_PORT",
    ):  # fmt: skip
        monkeypatch.setenv(name, "")  # so that it is taken away afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run" / "logs" / "4720-1"
    folder.mkdir(parents=True)
    monkeypatch.setenv("BRAINAGE_START", str(folder))
    return folder


def started_by_srun(monkeypatch: pytest.MonkeyPatch, rank: int, local: int, **more: str) -> None:
    said = {"STEP_ID": "0", "PROCID": str(rank), "NTASKS": "8", "LOCALID": str(local), "CPUS_PER_TASK": "3"}
    for name, value in said.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name, value in more.items():
        monkeypatch.setenv(name, value)


def test_rank_0_of_srun_says_where_to_meet_and_meets_there(
    start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_by_srun(monkeypatch, 0, 0, SLURMD_NODENAME="node1")
    joined = join()
    assert joined.port is not None
    with joined.port:
        assert (joined.rank, os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"]) == (0, "8", "3")
        said = json.loads((start / "rendezvous.json").read_text())
        assert (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])) == ("node1", said["port"])
        assert said["port"] == joined.port.getsockname()[1]
    assert len(starts_of(start.parents[1])) == 1


def test_another_rank_goes_where_rank_0_says(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (start / "rendezvous.json").write_text('{"address": "node1", "port": 15099}')
    started_by_srun(monkeypatch, 5, 1, CUDA_VISIBLE_DEVICES="0,1,2,3")
    joined = join()
    assert (joined.rank, joined.port) == (5, None)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node1", "15099")
    assert (os.environ["LOCAL_RANK"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("1", "0,1,2,3")
    assert starts_of(start.parents[1]) == []


def test_a_process_that_is_shown_its_own_gpu_only_takes_that_one(
    start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (start / "rendezvous.json").write_text('{"address": "node1", "port": 15099}')
    started_by_srun(monkeypatch, 5, 1, CUDA_VISIBLE_DEVICES="1")
    join()
    assert (os.environ["LOCAL_RANK"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("0", "1")


def test_an_interface_is_told_to_gloo_and_nccl_only_if_it_was_named(
    start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_by_srun(monkeypatch, 0, 0)
    joined = join()
    assert joined.port is not None
    joined.port.close()
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.setenv("BRAINAGE_INTERFACE", "lo")
    joined = join()
    assert joined.port is not None
    joined.port.close()
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


def test_what_torchrun_has_said_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by_srun(monkeypatch, 5, 1, RANK="3", MASTER_ADDR="here", MASTER_PORT="1")
    joined = join()
    assert (joined.rank, joined.start) == (3, None)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("here", "1")


def test_a_process_alone_in_an_interactive_job_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert join().rank == 0
    assert "WORLD_SIZE" not in os.environ


def test_kernels_are_compiled_on_the_node_s_own_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    monkeypatch.setenv("BRAINAGE_SCRATCH", "$NODE_DISK/mine")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "where the user says")
    join()
    kept = Path(os.environ["TRITON_CACHE_DIR"]).parent
    assert kept.parent == tmp_path / "disk" / "mine"
    assert kept.stat().st_mode & 0o77 == 0
    assert os.environ["TORCH_EXTENSIONS_DIR"] == "where the user says"
