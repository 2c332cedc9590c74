"""Predictors under test, and the one place that knows who is in the test part.

A pipeline is given training people and gives back predictors; a predictor is given people without their
ages and gives ages. `predict_held_out` cuts the data, so a pipeline cannot see a test row: the training
part does not hold it, and the test part has no ages. Whatever it has to choose (penalties, weights, epochs)
it chooses inside `fit`, on its training people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.evaluation.splits import Split, check_splits
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import TrainingData
from hpc_brainage.training.distributed import join_processes
from hpc_brainage.training.loop import EpochReport, MemberTask, member_seed, train_member
from hpc_brainage.training.prediction import predict_rows
from hpc_brainage.training.stacked import can_be_stacked, train_stacked


class Fitted(Protocol):
    """A predictor that has been fitted."""

    def predict(self, people: TrainingData) -> np.ndarray:
        """Ages in years, float64 (scans,), without a look at people's own ages; NaN where it cannot."""


class Pipeline(Protocol):
    """Something that learns to predict ages from training people.

    Attributes
    ----------
    name : how tables call it.
    depends_on_seed : whether another seed gives another predictor; if not, it is fitted for one seed only.
    """

    @property
    def name(self) -> str: ...

    @property
    def depends_on_seed(self) -> bool: ...

    def fit(self, people: Sequence[TrainingData], seeds: Sequence[int] = ()) -> Sequence[Fitted]:
        """A predictor for each of several training sets, which may be fitted together.

        Parameters
        ----------
        seeds : one for each training set, if the pipeline depends on them.
        """


View = Callable[[TrainingData], TrainingData]


def predict_held_out(
    pipeline: Pipeline, data: TrainingData, splits: Sequence[Split], seeds: Sequence[int] = (0,)
) -> np.ndarray:
    """Each scan's prediction by predictors that never saw the person, years (seeds, scans).

    NaN where no split tests the scan, or where the pipeline cannot predict it.

    Parameters
    ----------
    pipeline : what is tested; it gets the training rows, and of the test rows no ages.
    data : everybody.
    splits : who is trained on and who is predicted; the same for all seeds.
    seeds : a row of the result for each. A pipeline that does not depend on them is fitted once.

    Raises
    ------
    TrainingError : the splits do not fit the data, or the pipeline does not give one age for each scan.
    """
    return held_out_views(pipeline, data, splits, seeds, {"": _as_they_are})[""]


def held_out_views(
    pipeline: Pipeline,
    data: TrainingData,
    splits: Sequence[Split],
    seeds: Sequence[int],
    views: Mapping[str, View],
) -> dict[str, np.ndarray]:
    """`predict_held_out` with the tested people seen in several ways, say without a modality of theirs."""
    check_splits(data, splits)
    if pipeline.depends_on_seed:
        parts = [data.take(split.train) for split in splits]
        fitted = pipeline.fit(parts * len(seeds), [seed for seed in seeds for _ in splits])
    else:
        fitted = [pipeline.fit([data.take(split.train)])[0] for split in splits] * len(seeds)
    predicted = {name: np.full((len(seeds), len(data.scans)), np.nan) for name in views}
    places = [(row, split) for row in range(len(seeds)) for split in splits]
    for (row, split), one in zip(places, fitted, strict=True):
        tested = data.take(split.test).without_ages()
        for name, view in views.items():
            ages = one.predict(view(tested))
            if np.shape(ages) != (len(split.test),):
                raise TrainingError(
                    f"{pipeline.name} gave an array of shape {np.shape(ages)}",
                    where=split.name,
                    expected=f"one age for each of {len(split.test)} scans",
                )
            predicted[name][row, split.test] = ages
    return predicted


def alone(role: str) -> View:
    """People as if they had this modality only."""
    return lambda people: people.hiding([other for other in people.inputs if other != role])


def _as_they_are(people: TrainingData) -> TrainingData:
    return people


@dataclass(frozen=True)
class SAAVAEPipeline:
    """The SA-AVAE with a run's settings: `training.ensemble` members for each training set.

    Members for tables of features are trained stacked, all splits together.
    """

    config: RunConfig
    name: str = "SA-AVAE"
    depends_on_seed: bool = True
    report: EpochReport = field(default=lambda record: None, compare=False)
    """Told about each epoch of each member."""

    def fit(self, people: Sequence[TrainingData], seeds: Sequence[int] = ()) -> list[FittedMembers]:
        ensemble = self.config.training.ensemble
        processes = join_processes(self.config.training.device)
        data = [part for part in people for _ in range(ensemble)]
        # The k-th training set of one seed gets the numbers that a run of that seed gives its k-th fold.
        counted: Counter[int] = Counter()
        tasks: list[MemberTask] = []
        for part, seed in zip(people, seeds, strict=True):
            for _ in range(ensemble):
                rows = np.arange(len(part.scans))
                tasks.append(MemberTask(len(tasks), rows, member_seed(seed, counted[seed])))
                counted[seed] += 1
        members: dict[int, Member] = {}
        fits = len({id(part) for part in people})  # members of all seeds share what is fitted
        if all(can_be_stacked(part, self.config, processes, fits) for part in people):
            for place, member, _ in train_stacked(data, tasks, self.config, processes.device, self.report):
                members[place] = member.eval()
        else:
            for place, (part, task) in enumerate(zip(data, tasks, strict=True)):
                member, _ = train_member(part, task, self.config, processes, self.report)
                members[place] = member.to("cpu").eval()
        return [
            FittedMembers(tuple(members[first + place] for place in range(ensemble)))
            for first in range(0, len(data), ensemble)
        ]


@dataclass(frozen=True)
class FittedMembers:
    """Trained members of one training set as a predictor: the mean of what they say."""

    members: tuple[Member, ...]

    def predict(self, people: TrainingData) -> np.ndarray:
        rows = np.arange(len(people.scans))
        ages: np.ndarray = np.mean(
            [predict_rows(member, people, rows)["age"] for member in self.members], axis=0
        )
        return ages
