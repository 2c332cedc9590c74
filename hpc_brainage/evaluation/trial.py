"""Settings that are tried on a store: who is trained on, who is tested, and with which seeds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from hpc_brainage.config import RunConfig
    from hpc_brainage.evaluation.splits import Split
    from hpc_brainage.training.data import TrainingData


class HoldingOut(StrEnum):
    """How people are held out.

    `folds` have the same mix of modalities, sexes and ages, as a run has them, and everybody is tested;
    `kfold` is scikit-learn's, over the people with all modalities, while the others are trained on in every
    fold; `sites` leaves one site out.
    """

    folds = "folds"
    kfold = "kfold"
    sites = "sites"


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Attributes
    ----------
    store : what to train and test on.
    config : the model's settings.
    protocol : how people are held out.
    seeds : how many, of the model for each split, each with `training.ensemble` networks; the splits are
        the same for all.
    where : only these scans.
    """

    store: str
    config: RunConfig
    protocol: HoldingOut
    seeds: int
    where: str | None = None

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        first = self.config.training.seed
        return tuple(range(first, first + self.seeds))

    def folder_name(self, recipe: Path) -> str:
        """STORE_RECIPE_PROTOCOL, where results are kept by default."""
        from hpc_brainage.store.place import place_at

        return f"{place_at(self.store).name.removesuffix('.zarr')}_{recipe.stem}_{self.protocol}"

    def open(self) -> tuple[TrainingData, list[Split], str]:
        """The scans, the splits, and how a report calls the protocol.

        Raises
        ------
        TrainingError : there are too few people or sites, or the settings do not fit what is trained on.
        """
        from hpc_brainage.store.reader import Store
        from hpc_brainage.training.data import load_training_data
        from hpc_brainage.training.preparation import check_settings

        data = load_training_data(Store.open(self.store), self.config, self.where)
        splits, said = self._splits(data)
        check_settings(data, self.config, {split.name: split.train for split in splits})
        return data, splits, said

    def _splits(self, data: TrainingData) -> tuple[list[Split], str]:
        from hpc_brainage.evaluation.splits import leave_one_site_out, people_folds, plain_folds

        folds, seed = self.config.training.folds, self.config.training.seed
        if self.protocol is HoldingOut.sites:
            return leave_one_site_out(data), "leaving one site out"
        if self.protocol is HoldingOut.folds:
            return people_folds(data, folds, seed), f"{folds} folds over people"
        said = f"KFold({folds}, shuffle=True, random_state={seed}), all with {'+'.join(data.inputs)}"
        return plain_folds(data, folds, seed, data.complete), said

    def about(self, data: TrainingData) -> dict[str, Any]:
        """What was tried, for the record."""
        return {
            "store_sha256": data.store.content_sha256,
            "where": self.where,
            "config": self.config.model_dump(mode="json"),
            "seeds": list(self.chosen_seeds),
        }
