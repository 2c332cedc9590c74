"""Workers with GPUs, each with one of its own; the GPUs are pretended, since none need be here."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from distributed import LocalCluster

from hpc_brainage.cluster.resources import Resources
from hpc_brainage.errors import EnvironmentLacks
from hpc_brainage.scoring.crew import hired
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.part_work import DEVICE, _device
from hpc_brainage.scoring.slurm_crew import _job, _settings

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_dask_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "dask_cuda" else find(name)
    )


@pytest.fixture
def dask_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dask_cuda whose cluster does what the real one does: each worker sees its own GPU first."""

    class LocalCUDACluster(LocalCluster):
        def __init__(self, n_workers: int, **words: Any) -> None:
            super().__init__(n_workers=0, **words)
            self.scale(n_workers)
            self.sync(self._correct_state)

        def new_worker_spec(self) -> dict[Any, Any]:
            ((name, spec),) = super().new_worker_spec().items()
            env = {"CUDA_VISIBLE_DEVICES": "0,1" if name == 0 else "1,0"}
            return {name: spec | {"options": spec["options"] | {"env": env}}}

    module = ModuleType("dask_cuda")
    module.__spec__ = importlib.machinery.ModuleSpec("dask_cuda", None)
    module.LocalCUDACluster = LocalCUDACluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)


def on_each(crew: Any) -> set[tuple[str, str | None, str | None]]:
    """What each worker takes, and what it was told."""

    def taken() -> tuple[str, str | None, str | None]:  # within, so that it travels by value
        from unittest.mock import patch

        from hpc_brainage.scoring import part_work

        with (
            patch("torch.cuda.is_available", lambda: True),
            patch("torch.cuda.device_count", lambda: 2),
        ):
            device = part_work._device()
        return device, os.environ.get(part_work.DEVICE), os.environ.get("CUDA_VISIBLE_DEVICES")

    crew.client.wait_for_workers(crew.wanted, timeout=60)
    workers = list(crew.client.scheduler_info(n_workers=-1)["workers"])
    tasks = [crew.client.submit(taken, workers=[worker], pure=False) for worker in workers]
    return {task.result(timeout=60) for task in tasks}


def test_plain_workers_of_this_machine_take_one_gpu_each(
    two_gpus: None, no_dask_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with hired(Fleet(), 10, tmp_path) as crew:
        assert on_each(crew) == {("cuda:0", None, None), ("cuda:1", None, None)}


def test_dask_cuda_s_workers_take_the_gpu_that_they_see_first(
    two_gpus: None, dask_cuda: None, tmp_path: Path
) -> None:
    with hired(Fleet(gpus=1), 10, tmp_path) as crew:
        assert on_each(crew) == {("cuda:0", "cuda:0", "0,1"), ("cuda:0", "cuda:0", "1,0")}


def test_a_dask_cuda_that_cannot_be_used_is_said(
    two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dask_cuda.py").write_text("raise ImportError('libnvidia-ml.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(EnvironmentLacks, match=r"cannot be used \(libnvidia-ml") as caught,
        hired(Fleet(), 1, tmp_path),
    ):
        pass
    assert "pip uninstall dask-cuda" in str(caught.value)


def test_no_more_workers_than_gpus_are_hired(two_gpus: None, no_dask_cuda: None, tmp_path: Path) -> None:
    with hired(Fleet(workers=5), 10, tmp_path) as crew:
        assert crew.wanted == 2


def test_a_machine_without_gpus_says_so_before_anybody_is_hired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with (
        pytest.raises(EnvironmentLacks, match="no GPU that PyTorch can use"),
        hired(Fleet(gpus=1), 1, tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "device"),
    [
        (0, "cuda:0"),
        (1, "cuda:1"),
        ("SLURMCluster-6-1", "cuda:1"),
        ("tls://10.1.2.3:8786", "cuda:0"),
    ],
)
def test_a_worker_s_number_is_its_gpu_s(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, name: int | str, device: str
) -> None:
    monkeypatch.delenv(DEVICE, raising=False)
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(name=name))
    assert _device() == device


def test_a_job_of_one_gpu_takes_the_only_one_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(name="SLURMCluster-7"))
    assert _device() == "cuda:0"


def gpu_job(tmp_path: Path) -> dict[str, Any]:
    return _job(_settings(Resources(), 2), 2, Resources(), tmp_path)


def test_jobs_without_dask_cuda_have_a_plain_worker_for_each_gpu(
    no_dask_cuda: None, tmp_path: Path
) -> None:
    job = gpu_job(tmp_path)
    assert (job["worker_command"], job["processes"]) == ("distributed.cli.dask_worker", 2)
    assert not any(DEVICE in line for line in job["job_script_prologue"])


def test_jobs_with_dask_cuda_leave_in_time_like_all_others(dask_cuda: None, tmp_path: Path) -> None:
    job = gpu_job(tmp_path)
    assert job["worker_command"] == "dask_cuda.cli"
    assert f"export {DEVICE}=cuda:0" in job["job_script_prologue"]
    assert any("WORKER__LIFETIME__DURATION" in line for line in job["job_script_prologue"])
