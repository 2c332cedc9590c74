"""What simple predictors reach on the very same people.

A model's error means something only beside these: a constant age, and what a careful researcher would do
with scikit-learn in an afternoon. They get what the model gets: sex, presence, the same selection,
imputation and scaling of the features, and everybody who has a modality to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from hpc_brainage.config import RunConfig
from hpc_brainage.evaluation.learners import Learned, Learner, Ridge, SupportVectors
from hpc_brainage.evaluation.pipelines import Pipeline
from hpc_brainage.model.front_end import FrontEnd, fit_front_end
from hpc_brainage.model.sa_avae import BranchSpec
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput

Scale = Literal["years", "log"]

MOST_FOR_MACHINES = 10_000
_VOLUMES_AT_ONCE = 16
_WEIGHTS = np.linspace(0, 1, 51)
_FEWEST_TO_WEIGH = 10


def baselines(data: TrainingData, config: RunConfig) -> list[Pipeline]:
    """The simple predictors that this data allows: constants first, then from plain to strong.

    Support vector machines are left out of more than `MOST_FOR_MACHINES` scans: they take a matrix of all
    pairs of scans.
    """
    scales: tuple[Scale, Scale] = ("years", "log")
    ridge, machine = Ridge(), SupportVectors()
    roles = tuple(data.inputs)
    found: list[Pipeline] = [
        Constant("predicting the mean age", np.mean),
        Constant("predicting the median age", np.median),
    ]
    found += [Regression(ridge, config, roles, scale) for scale in scales]
    few = len(data.scans) <= MOST_FOR_MACHINES
    if few:
        found.append(Regression(machine, config, roles, "years"))
    if len(roles) == 1:
        return [*found, Regression(machine, config, roles, "log")] if few else found
    found += [Regression(ridge, config, (role,), scale) for role in roles for scale in scales]
    if few:
        found.append(Regression(machine, config, roles[:1], "years"))
        found.append(LateFusion((machine, ridge), config, roles, "years"))
    found += [LateFusion((ridge, ridge), config, roles, scale) for scale in scales]
    if few:
        found.append(LateFusion((machine, ridge), config, roles, "log"))
    return found


def ridges(data: TrainingData, config: RunConfig) -> list[Pipeline]:
    """The ridge regressions among the simple predictors, on the model's own scale of ages.

    On all modalities side by side; of two also on each alone, and fused. The first predicts everybody.
    """
    ridge, roles, scale = Ridge(), tuple(data.inputs), config.loss.age_scale
    found: list[Pipeline] = [Regression(ridge, config, roles, scale)]
    if len(roles) == 2:
        found += [Regression(ridge, config, (role,), scale) for role in roles]
        found.append(LateFusion((ridge, ridge), config, roles, scale))
    return found


@dataclass(frozen=True)
class Constant:
    """The typical age of the training scans, for everybody.

    Where ages are skewed the median has the smaller absolute error, the mean the smaller squared one.
    """

    name: str
    typical: Callable[[np.ndarray], float]
    depends_on_seed: bool = field(default=False, init=False)

    def fit(self, people: Sequence[TrainingData], seeds: Sequence[int] = ()) -> list[_Age]:
        return [_Age(float(self.typical(part.age.astype(float)))) for part in people]


@dataclass(frozen=True)
class _Age:
    years: float

    def predict(self, people: TrainingData) -> np.ndarray:
        return np.full(len(people.scans), self.years)


@dataclass(frozen=True)
class Regression:
    """One learner on the features of one role, or of several side by side with presence, and on sex.

    Side by side, a missing modality takes the training means. From one role, a scan without it has no
    prediction. Volumes enter as the block means that the model's own linear path gets.
    """

    learner: Learner
    config: RunConfig
    roles: tuple[str, ...]
    scale: Scale
    depends_on_seed: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        return f"{self.learner.name}, {' beside '.join(self.roles)}{_SCALE_NAMES[self.scale]}"

    def fit(self, people: Sequence[TrainingData], seeds: Sequence[int] = ()) -> list[_Regressed]:
        return [self._fit_one(part) for part in people]

    def _fit_one(self, people: TrainingData) -> _Regressed:
        front_ends = {role: _fit_front_end(people, role, self.config) for role in self.roles}
        design = _Design(front_ends, self.learner.covariate_scale)
        here = _has_any(people, self.roles)
        target = _SCALES[self.scale][0](people.age[here].astype(float))
        person = people.scans["participant_id"].to_numpy()[here]
        learned = self.learner.fit(design(people)[here], target, person)
        inner = np.full(len(here), np.nan)
        inner[here] = learned.inner
        return _Regressed(design, learned, self.scale, inner)


@dataclass(frozen=True)
class _Regressed:
    design: _Design
    learned: Learned
    scale: Scale
    inner: np.ndarray
    """Of each training scan on the regression's scale, predicted without the person."""

    def on_scale(self, people: TrainingData) -> np.ndarray:
        """Predictions before they are turned back into years; NaN for scans without the roles."""
        here = _has_any(people, tuple(self.design.front_ends))
        found = np.full(len(here), np.nan)
        if here.any():
            found[here] = self.learned.predict(self.design(people)[here])
        return found

    def predict(self, people: TrainingData) -> np.ndarray:
        return _SCALES[self.scale][1](self.on_scale(people))


@dataclass(frozen=True)
class LateFusion:
    """A predictor for each modality, and one weight between them.

    Each is trained on everybody who has its modality. The weight, w · first + (1 - w) · second on the
    regression's scale, has the smallest absolute error in years over the training people with both, each
    predicted without them by inner validation; with fewer than ten such people it is 1/2. Whoever has one
    modality gets the age from that one.
    """

    learners: tuple[Learner, Learner]
    config: RunConfig
    roles: tuple[str, ...]
    scale: Scale
    depends_on_seed: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        parts = " + ".join(f"{r} {lr.name}" for r, lr in zip(self.roles, self.learners, strict=True))
        return f"late fusion, {parts}{_SCALE_NAMES[self.scale]}"

    def fit(self, people: Sequence[TrainingData], seeds: Sequence[int] = ()) -> list[_Fused]:
        return [self._fit_one(part) for part in people]

    def _fit_one(self, people: TrainingData) -> _Fused:
        parts = [
            Regression(learner, self.config, (role,), self.scale).fit([people])[0]
            for learner, role in zip(self.learners, self.roles, strict=True)
        ]
        first, second = (part.inner for part in parts)
        both = np.isfinite(first) & np.isfinite(second)
        if both.sum() < _FEWEST_TO_WEIGH:
            return _Fused((parts[0], parts[1]), self.scale, 0.5)
        mixed = _WEIGHTS[:, None] * first[both] + (1 - _WEIGHTS[:, None]) * second[both]
        errors = np.abs(_SCALES[self.scale][1](mixed) - people.age[both]).mean(axis=1)
        return _Fused((parts[0], parts[1]), self.scale, float(_WEIGHTS[errors.argmin()]))


@dataclass(frozen=True)
class _Fused:
    parts: tuple[_Regressed, _Regressed]
    scale: Scale
    weight: float

    def predict(self, people: TrainingData) -> np.ndarray:
        first, second = (part.on_scale(people) for part in self.parts)
        mixed = self.weight * first + (1 - self.weight) * second
        mixed = np.where(np.isnan(second), first, np.where(np.isnan(first), second, mixed))
        return _SCALES[self.scale][1](mixed)


def _to_years(t: np.ndarray) -> np.ndarray:
    return t


def _from_log(t: np.ndarray) -> np.ndarray:
    # Beyond e^6, 400 years, a prediction is wrong in any case and must not become infinite.
    return np.expm1(np.minimum(t, 6.0))


_SCALES: dict[Scale, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "years": (_to_years, _to_years),
    "log": (np.log1p, _from_log),
}
_SCALE_NAMES: dict[Scale, str] = {"years": "", "log": ", log age"}


@dataclass(frozen=True)
class _Design:
    """From scans to the columns of a regression: sex, presence, then the features of each role."""

    front_ends: dict[str, tuple[FrontEnd, np.ndarray]]
    covariate_scale: float

    def __call__(self, people: TrainingData) -> np.ndarray:
        covariates = [people.sex == 0, people.sex == 1]
        if len(self.front_ends) > 1:
            covariates += [people.inputs[role].present for role in self.front_ends]
        columns = [self.covariate_scale * np.stack(covariates, axis=1).astype(np.float64)]
        for role, (front_end, used) in self.front_ends.items():
            source = people.inputs[role]
            x = front_end(torch.from_numpy(_matrix(source)[:, used])).numpy()
            columns.append(np.where(source.present[:, None], x, 0.0).astype(np.float64))
        return np.concatenate(columns, axis=1)


def _fit_front_end(people: TrainingData, role: str, config: RunConfig) -> tuple[FrontEnd, np.ndarray]:
    """Selection, imputation and scaling fitted on those of `people` who have the role, and its columns."""
    source, settings = people.inputs[role], config.modality(role)
    x = _matrix(source)[source.present]
    front_end = fit_front_end(
        x,
        [str(column) for column in range(x.shape[1])],
        components=0,
        clip_sd=settings.clip_sd,
        max_missing=settings.max_missing,
    )
    return front_end, np.array([int(name) for name in front_end.features])


def _has_any(people: TrainingData, roles: Sequence[str]) -> np.ndarray:
    has: np.ndarray = np.any([people.inputs[role].present for role in roles], axis=0)
    return has


def _matrix(source: FeatureInput | VolumeInput) -> np.ndarray:
    if isinstance(source, FeatureInput):
        return source.x_NF
    grid = BranchSpec("sfcn", (), grid=source.grid).coarse_grid
    blocks = []
    for first in range(0, len(source.present), _VOLUMES_AT_ONCE):
        rows = np.arange(first, min(first + _VOLUMES_AT_ONCE, len(source.present)))
        volumes = source.read(rows)[:, None]
        blocks.append(F.adaptive_avg_pool3d(volumes, grid).flatten(1).numpy())
    return np.concatenate(blocks)
