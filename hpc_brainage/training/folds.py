"""Folds over people.

All scans of a person fall into one fold. People are dealt out in order of which modalities they have,
their sex and their age, so that every fold has the same mix of the three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from hpc_brainage.errors import TrainingError

_FINE = 40
"""Into so many pieces people are dealt for a validation set: its share is met to a fortieth."""


def assign_folds(scans: pd.DataFrame, availability: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """The fold, 0 to `folds` - 1, in which each scan is held out, as an int64 array.

    Parameters
    ----------
    scans : scan table; `participant_id`, `sex` and `age` are used.
    availability : which modalities each scan has, e.g. "smri+fmri".
    folds : how many.
    seed : decides who goes where; the order of the scans does not.

    Raises
    ------
    TrainingError : fewer people than folds.
    """
    people = (
        pd.DataFrame(
            {
                "person": scans["participant_id"].to_numpy(),
                "availability": list(availability),
                "sex": scans["sex"].to_numpy(),
                "age": scans["age"].to_numpy(),
            }
        )
        .groupby("person", sort=True)
        .agg({"availability": "max", "sex": "first", "age": "mean"})
        .reset_index()
    )
    if len(people) < folds:
        raise TrainingError(
            f"{len(people)} people cannot be dealt into {folds} folds",
            hint="train on more people or set training.folds to a smaller number",
        )
    people = people.sort_values(["availability", "sex", "age", "person"], kind="stable")
    draw = np.random.default_rng(seed)
    blocks = -(-len(people) // folds)
    dealt = np.concatenate([draw.permutation(folds) for _ in range(blocks)])[: len(people)]
    fold_of = dict(zip(people["person"], dealt, strict=True))
    return np.array([fold_of[person] for person in scans["participant_id"]], dtype=np.int64)


def hold_back(scans: pd.DataFrame, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows of about `share` of the people among `rows`, spread over age: a validation set."""
    if not share:
        return rows[:0]
    part = scans.iloc[rows].reset_index(drop=True)
    pieces = min(_FINE, part["participant_id"].nunique())
    piece = assign_folds(part, [""] * len(part), pieces, seed)
    return rows[piece < max(1, round(share * pieces))]


def presence_groups(present: Mapping[str, torch.Tensor], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of which some modality is there, and of each the number of what it has, for `epoch_order`.

    Parameters
    ----------
    present : by modality, bool (scans,). Who has too few features of every one teaches nothing.
    rows : of these.
    """
    has = torch.stack(list(present.values())).numpy()
    rows = rows[has[:, rows].any(axis=0)]
    return rows, (has * 2 ** np.arange(len(has))[:, None]).sum(axis=0)[rows]


def epoch_order(groups: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """A random order of the rows in which every group is spread evenly.

    `groups` numbers what each row should be mixed by (which modalities it has); every batch then holds
    nearly the same share of each, and no batch is left without pairs while there are any.
    """
    draw = np.random.default_rng([seed, epoch])
    position = np.empty(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        position[draw.permutation(members)] = (np.arange(len(members)) + draw.random()) / len(members)
    return np.argsort(position, kind="stable")


def batches(order: np.ndarray, batch_size: int, least: int = 1) -> list[np.ndarray]:
    """The order cut into batches; a last one below half the size or below `least` joins the one before."""
    cuts = list(range(batch_size, len(order), batch_size))
    if cuts and len(order) - cuts[-1] < max(batch_size / 2, least):
        cuts.pop()
    return np.split(order, cuts)
