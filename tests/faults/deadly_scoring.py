"""What a worker of Dask loads first, so that it dies, or dawdles, in the middle of scoring.

The environment says of what: `DEADLY_ROWS` are rows of the store whose part ends the worker; with a folder
in `DEADLY_ONCE`, only the first time. `DEADLY_SECONDS` is how long each part takes. Each worker leaves its
node and its process's number in the folder `DEADLY_PIDS`; from the `DEADLY_LATE_FROM`th on, it then takes
`DEADLY_LATE_SECONDS` to come.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from hpc_brainage.scoring.predictor import Predictor


def dask_setup(worker: object) -> None:
    rows_of_death = {int(row) for row in os.environ.get("DEADLY_ROWS", "").split(",") if row}
    once = os.environ.get("DEADLY_ONCE")
    pids = Path(os.environ["DEADLY_PIDS"])
    (pids / f"{os.uname().nodename}:{os.getpid()}").touch()
    if len(list(pids.iterdir())) >= int(os.environ.get("DEADLY_LATE_FROM", "1000")):
        time.sleep(float(os.environ["DEADLY_LATE_SECONDS"]))
    score = Predictor.score

    def deadly(self: Predictor, rows: np.ndarray) -> object:
        time.sleep(float(os.environ.get("DEADLY_SECONDS", "0")))
        for row in rows_of_death & set(rows.tolist()):
            mark = Path(once, f"died-of-{row}") if once else None
            if mark is None or not mark.exists():
                if mark is not None:
                    mark.touch()
                os._exit(1)
        return score(self, rows)

    Predictor.score = deadly  # type: ignore[method-assign]
