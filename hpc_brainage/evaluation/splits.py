"""Who is trained on and who is tested.

A split is over people: all scans of a person are on one side. Scans that no split tests are there to be
trained on, in every split that does not hold the person out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_brainage.errors import TrainingError
from hpc_brainage.training.data import TrainingData
from hpc_brainage.training.folds import assign_folds


@dataclass(frozen=True)
class Split:
    """Row numbers of the scans that are trained on and of those that are tested."""

    name: str
    train: np.ndarray
    test: np.ndarray


def by_label(labels: np.ndarray, word: str = "fold") -> list[Split]:
    """A split for each label, in their order: the scans that carry it are tested, all others trained on."""
    return [
        Split(f"{word} {label}", np.flatnonzero(labels != label), np.flatnonzero(labels == label))
        for label in np.unique(labels)
    ]


def people_folds(data: TrainingData, folds: int, seed: int = 0) -> list[Split]:
    """Folds over people with the same mix of modalities, sexes and ages, as `brainage train` makes them.

    Raises
    ------
    TrainingError : fewer people than folds.
    """
    return by_label(assign_folds(data.scans, data.availability, folds, seed))


def plain_folds(
    data: TrainingData, folds: int, seed: int = 0, tested: np.ndarray | None = None
) -> list[Split]:
    """scikit-learn's shuffled KFold over the scans in their order, as published comparisons often use.

    Parameters
    ----------
    folds, seed : n_splits and random_state of `sklearn.model_selection.KFold`.
    tested : bool (scans,), who is dealt into folds; the others are trained on in every fold. Default: all.

    Raises
    ------
    TrainingError : somebody has several scans, which would fall on both sides, or there are too few.
    """
    from sklearn.model_selection import KFold

    if data.scans["participant_id"].duplicated().any():
        raise TrainingError(
            "plain folds deal out scans, and some people have several",
            hint="use folds over people: they keep a person's scans together",
        )
    rows = np.arange(len(data.scans)) if tested is None else np.flatnonzero(tested)
    if len(rows) < folds:
        raise TrainingError(f"{len(rows)} scans cannot be dealt into {folds} folds")
    dealt = KFold(folds, shuffle=True, random_state=seed).split(rows)
    everybody = np.arange(len(data.scans))
    return [
        Split(f"fold {index}", np.setdiff1d(everybody, rows[test]), rows[test])
        for index, (_, test) in enumerate(dealt)
    ]


def leave_one_site_out(data: TrainingData, tested: np.ndarray | None = None) -> list[Split]:
    """A split for each site: its scans are tested, and nobody of that site is trained on.

    A person who was scanned at several sites is tested at each and trained on for neither. Scans of an
    unknown site are trained on always and tested never.

    Parameters
    ----------
    tested : bool (scans,), whom to test; the others of a site are left out with it. Default: all.

    Raises
    ------
    TrainingError : fewer than two sites.
    """
    site = data.scans["site"].to_numpy()
    person = data.scans["participant_id"].to_numpy()
    sites = sorted(set(site) - {""})
    if len(sites) < 2:
        raise TrainingError(
            f"leaving one site out needs two sites at least, and the scans name {len(sites)}",
            where=data.store.path,
            hint="use --protocol folds",
        )
    splits = []
    for left_out in sites:
        there = site == left_out
        test = there if tested is None else there & tested
        away = np.isin(person, person[there])
        if test.any():
            splits.append(Split(f"site {left_out}", np.flatnonzero(~away), np.flatnonzero(test)))
    return splits
