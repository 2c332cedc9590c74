"""Members of the planted cohort: untrained ones whose answers are known, and trained ones."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from planted import planted_store

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.model.member import Member
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.folds import assign_folds
from hpc_brainage.training.preparation import new_member
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import run_training

QUICK = (
    "smri.components=10", "fmri.components=8", "smri.hidden=[16]", "fmri.hidden=[16]", "model.shared=4",
    "model.distinct=4", "training.folds=3", "training.epochs=25", "training.batch_size=16",
    "training.weight_decay=0.1", "training.learning_rate=5e-3", "training.device=cpu",
)  # fmt: skip


def quick(*settings: str) -> RunConfig:
    return load_config(None, [*QUICK, *settings])


def planted_data(folder: Path, config: RunConfig, **settings: object) -> TrainingData:
    return load_training_data(Store.open(planted_store(folder, **settings)), config)  # type: ignore[arg-type]


def fresh_members(
    data: TrainingData, config: RunConfig, seed: int = 0
) -> tuple[tuple[Member, ...], np.ndarray]:
    """Members with fitted front ends and the parameters they start from, and the folds."""
    fold = assign_folds(data.scans, data.availability, config.training.folds, 0)
    torch.manual_seed(seed)
    members = [
        new_member(data, np.flatnonzero(fold != index), config).eval()
        for index in range(config.training.folds)
    ]
    return tuple(members), fold


@lru_cache(maxsize=1)
def trained_members() -> tuple[tuple[Member, ...], TrainingData, np.ndarray]:
    """Members trained on the planted cohort, trained once for all tests."""
    folder = Path(tempfile.mkdtemp())
    store = planted_store(folder)
    run = run_training(RunFolder.prepare(folder / "run", quick(), store, None).path)
    assert run is not None
    return run.members, run.data, run.fold
