"""Errors of predicted ages.

These functions take raw predictions. A prediction from which the age trend was removed *with the
person's own age* contains the answer: it correlates highly with age however poor the model is (Butler et
al. 2021; for a least-squares predictor r >= 0.894, see `docs/method.md`). Such ages are refused here.
"""

from __future__ import annotations

import numpy as np

from hpc_brainage.model.evidence import Performance
from hpc_brainage.scoring.bias import refuse_age_using


def performance(predicted: np.ndarray, age: np.ndarray) -> Performance:
    """MAE, RMSE, R² and r in years over the people for whom there is a prediction.

    R² is against the mean age of these very people. What is not defined is None: R² and r for fewer than
    three people or where ages or predictions do not vary, and all of them for nobody.

    Raises
    ------
    ScoringError : the predictions were made with the ages (see `hpc_brainage.scoring.bias`).
    """
    refuse_age_using(predicted)
    known = np.isfinite(predicted) & np.isfinite(age)
    p, y = predicted[known].astype(float), age[known].astype(float)
    if not len(y):
        return Performance(n=0, mae=None, rmse=None, r2=None, r=None)
    error = p - y
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = None if len(y) < 3 or spread == 0 else 1 - float((error**2).sum()) / spread
    return Performance(
        n=len(y),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt((error**2).mean())),
        r2=r2,
        r=correlation(p, y),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's r, or None where it is not defined."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
