"""The work of one task on a worker: one task at a time, whatever Dask starts."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.scoring import part_work
from hpc_brainage.scoring.part_work import PartWork


def test_tasks_that_a_worker_starts_together_are_done_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[int] = []
    most: list[int] = []

    def score(rows: np.ndarray) -> pd.DataFrame:
        at_work.append(len(rows))
        most.append(len(at_work))
        time.sleep(0.05)
        at_work.pop()
        return pd.DataFrame({"status": ["scored"] * len(rows)})

    loaded = SimpleNamespace(score=score), np.ones(40, dtype=bool)
    monkeypatch.setattr(part_work, "_loaded", lambda work: loaded)
    (tmp_path / "run.json").write_text("{}")
    work = PartWork("store", "model", str(tmp_path), ())
    tasks = [threading.Thread(target=work, args=(first, first + 10)) for first in range(0, 40, 10)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert most == [1, 1, 1, 1]
    assert len(list(tmp_path.glob("rows-*.parquet"))) == 4
