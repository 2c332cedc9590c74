"""Who is trained on and who is tested.

A split is over people: all scans of a person are on one side. Scans that no split tests are there to be
trained on, in every split that does not hold the person out. What a finished run has held out is told by
the fold of each scan, whose number is that of the only member by which the scan may be judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_brainage.errors import TrainingError, UsageError
from hpc_brainage.model.member import Member
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


def tested_by(splits: Sequence[Split], scans: int) -> np.ndarray:
    """Who is tested by any of the splits, bool (scans,)."""
    tested = np.zeros(scans, dtype=bool)
    tested[np.concatenate([split.test for split in splits])] = True
    return tested


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


def leave_one_site_out(data: TrainingData) -> list[Split]:
    """A split for each site: its scans are tested, and nobody of that site is trained on.

    A person who was scanned at several sites is tested at each and trained on for neither. Scans of an
    unknown site are trained on always and tested never.

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
        away = np.isin(person, person[there])
        splits.append(Split(f"site {left_out}", np.flatnonzero(~away), np.flatnonzero(there)))
    return splits


def check_splits(data: TrainingData, splits: Sequence[Split]) -> None:
    """Refuse splits in which somebody is trained on and tested, or in which a scan is tested twice.

    Raises
    ------
    TrainingError : in one of these cases, and where a part is empty.
    """
    person = data.scans["participant_id"].to_numpy()
    tested = np.zeros(len(person), dtype=int)
    for split in splits:
        if not len(split.train) or not len(split.test):
            raise TrainingError("a split has nobody to train on or nobody to test", where=split.name)
        both = set(person[split.train]) & set(person[split.test])
        if both:
            raise TrainingError(
                f"{len(both)} people are in the training part and in the test part",
                where=f"{split.name}: {min(both)}",
                expected="all scans of a person in one part",
            )
        np.add.at(tested, split.test, 1)
    if tested.max(initial=0) > 1:
        raise TrainingError(f"{int((tested > 1).sum())} scans are tested by several splits")


def check_folds(members: Sequence[Member], data: TrainingData, fold: np.ndarray) -> None:
    """Refuse folds by which a person could be judged by a member that was trained on them.

    Parameters
    ----------
    members : member k was trained on all scans of `data` whose fold is not k, and on no others.
    fold : the fold of each scan, shape (scans,); -1 for scans that all members were trained on and that
        nobody may be judged by.

    Raises
    ------
    UsageError : the folds are not one for each scan, name a member that is not there, or split a person.
    """
    if fold.shape != (len(data.scans),):
        raise UsageError(
            f"{fold.size} folds for {len(data.scans)} scans", expected="the fold of each scan of the data"
        )
    if len(fold) and not (fold.min() >= -1 and fold.max() < len(members)):
        raise UsageError(
            f"folds {fold.min()} to {fold.max()} for {len(members)} members",
            expected="folds that count the members from 0, and -1 for nobody",
        )
    roles = sorted({role for member in members for role in member.roles} - set(data.inputs))
    if roles:
        raise UsageError(f"the members take {', '.join(roles)}, and the data has none of it")
    person = data.scans["participant_id"].to_numpy()
    first = dict(zip(person, fold, strict=True))
    split = sorted({str(who) for who, index in zip(person, fold, strict=True) if first[who] != index})
    if split:
        raise UsageError(
            f"scans of {len(split)} people lie in several folds",
            where=split[0],
            expected="all scans of a person in one fold",
        )
