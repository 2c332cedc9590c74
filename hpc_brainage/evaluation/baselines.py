"""What simple predictors reach on the very same folds.

A model's error means something only beside these two: the mean age of the training people, and a ridge
regression on the same inputs, the same age scale and the same people.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from hpc_brainage.config import RunConfig
from hpc_brainage.model.age_scale import AgeScale
from hpc_brainage.model.front_end import fit_front_end
from hpc_brainage.model.sa_avae import BranchSpec
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput

_PENALTIES = np.logspace(-1, 7, 25)
_VOLUMES_AT_ONCE = 16


def constant_predictor(
    age: np.ndarray, fold: np.ndarray, typical: Callable[[np.ndarray], float]
) -> np.ndarray:
    """Each held-out person's prediction: the mean (or median) age of the other folds, years.

    Where ages are skewed the median has the smaller absolute error, the mean the smaller squared one.
    """
    predicted = np.empty(len(age))
    for index in np.unique(fold):
        predicted[fold == index] = typical(age[fold != index])
    return predicted


def ridge(data: TrainingData, fold: np.ndarray, config: RunConfig) -> np.ndarray:
    """Held-out predictions of a ridge regression, years.

    Features of all modalities stand side by side with sex and presence; selection, imputation and
    scaling are fitted in the training folds with the run's own settings, and the penalty is chosen there
    by leave-one-out error. A missing modality takes the training means. Volumes enter as the block means
    that the model's own linear path gets.
    """
    from sklearn.linear_model import RidgeCV

    inputs = {role: _matrix(source) for role, source in data.inputs.items()}
    age = torch.from_numpy(data.age)
    predicted = np.empty(len(age))
    for index in np.unique(fold):
        train, test = fold != index, fold == index
        columns = [_covariates(data)]
        for role, x in inputs.items():
            here = data.inputs[role].present
            names = [str(i) for i in range(x.shape[1])]
            settings = config.modality(role)
            front_end = fit_front_end(
                x[train & here],
                names,
                components=0,
                clip_sd=settings.clip_sd,
                max_missing=settings.max_missing,
            )
            used = [int(name) for name in front_end.features]
            scaled = front_end(torch.from_numpy(x[:, used])).numpy()
            columns.append(np.where(here[:, None], scaled, 0.0))
        design = np.concatenate(columns, axis=1).astype(np.float64)
        scale = AgeScale.fit(age[train], config.loss.age_scale)
        model = RidgeCV(alphas=_PENALTIES).fit(design[train], scale.to_scale(age[train].double()).numpy())
        predicted[test] = scale.to_years(torch.from_numpy(model.predict(design[test]))).numpy()
    return predicted


def _covariates(data: TrainingData) -> np.ndarray:
    columns = [data.sex == 0, data.sex == 1]
    if len(data.inputs) > 1:
        columns += [source.present for source in data.inputs.values()]
    # Ten times as large as a standardised feature, so that the penalty hardly shrinks them.
    return 10.0 * np.stack(columns, axis=1).astype(np.float64)


def _matrix(source: FeatureInput | VolumeInput) -> np.ndarray:
    if isinstance(source, FeatureInput):
        return source.x_NF
    grid = BranchSpec("sfcn", (), grid=source.grid).target_grid
    blocks = []
    for first in range(0, len(source.present), _VOLUMES_AT_ONCE):
        rows = np.arange(first, min(first + _VOLUMES_AT_ONCE, len(source.present)))
        volumes = source.read(rows)[:, None]
        blocks.append(F.adaptive_avg_pool3d(volumes, grid).flatten(1).numpy())
    return np.concatenate(blocks)
