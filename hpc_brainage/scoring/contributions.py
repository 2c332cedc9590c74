"""What drives the brain ages of groups of scored people: years of each feature, averaged by group.

Integrated gradients against the mean training person of the same sex (`hpc_brainage.model.attribution`), by
the members that were asked for the person's age. What a person's features add sums up to `brain_age` minus
the age of that baseline. These are reasons of the model, not causes of ageing; features that say the same
share the credit.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from hpc_brainage.errors import ModelError, UsageError, nearest
from hpc_brainage.model.attribution import attribute_member
from hpc_brainage.model.bundle import Bundle, ModelInfo
from hpc_brainage.model.member import SEX_NUMBERS
from hpc_brainage.scoring.codes import blocks_of
from hpc_brainage.scoring.predictor import Block, Predictor

EVERYBODY = "all"
MOST_GROUPS = 20
COLUMNS = ("role", "feature", "group", "mean_contribution_years", "mean_absolute_contribution_years", "n")


def groups_in(scans: pd.DataFrame, column: str) -> np.ndarray:
    """The group of each scan, text (scans,); "unknown" where the column is empty.

    Raises
    ------
    UsageError : there is no such column, or it has more than 20 values.
    """
    if column not in scans:
        raise UsageError(
            "there is no such column to group by",
            where=f"--contributions {column}",
            hint=nearest(column, map(str, scans.columns)),
        )
    values = scans[column]
    names = np.where(values.isna() | (values.astype(str) == ""), "unknown", values.astype(str))
    if (count := len(set(names))) > MOST_GROUPS:
        raise UsageError(
            f"{count} values are no groups",
            where=f"--contributions {column}",
            expected=f"a column of at most {MOST_GROUPS}, as sex or diagnosis",
        )
    return names.astype(object)


def refuse_volumes(info: ModelInfo) -> None:
    """Contributions of voxels need the mean training volume, which a bundle does not hold.

    Raises
    ------
    ModelError : the model takes a volume.
    """
    if info.volumes:
        raise ModelError(
            "contributions are of features, and the model takes a volume",
            where=", ".join(info.volumes),
            hint="`brainage explain RUN` maps what drives it, from the training's own volumes",
        )


def contributions(predictor: Predictor, rows: np.ndarray, group_of: np.ndarray) -> pd.DataFrame:
    """Contributions of every feature by group, and over everybody.

    Parameters
    ----------
    rows : rows of the store that have been scored.
    group_of : the group of each, text (rows,).

    Returns
    -------
    The columns of `COLUMNS`, by group and modality the largest mean absolute contribution first. Of n scans
    that have the modality; a feature that a scan lacks adds 0 there.
    """
    groups = [EVERYBODY, *sorted(set(group_of))]
    features = predictor.bundle.info.features
    signed = {role: np.zeros((len(groups), len(names))) for role, names in features.items()}
    absolute = {role: np.zeros((len(groups), len(names))) for role, names in features.items()}
    count = {role: np.zeros(len(groups), dtype=np.int64) for role in features}
    done = 0
    for some, block in blocks_of(predictor, rows):
        sexes = predictor.store.scans["sex"].iloc[some]
        years = _years(predictor.bundle, block, [SEX_NUMBERS[sex] for sex in sexes])
        own = group_of[done : done + len(some)]
        done += len(some)
        for role, value in years.items():
            there = np.isfinite(value).all(axis=1)
            for place, group in enumerate(groups):
                chosen = value[there & ((own == group) if place else True)].astype(float)
                signed[role][place] += chosen.sum(axis=0)
                absolute[role][place] += np.abs(chosen).sum(axis=0)
                count[role][place] += len(chosen)
    parts = []
    for place, group in enumerate(groups):
        for role, names in features.items():
            n = int(count[role][place])
            if not n:
                continue
            values = (role, names, group, signed[role][place] / n, absolute[role][place] / n, n)
            table = pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
            parts.append(table.sort_values(COLUMNS[4], ascending=False, kind="stable"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: [] for name in COLUMNS})


def _years(bundle: Bundle, block: Block, sexes: list[int]) -> dict[str, np.ndarray]:
    """By role, (scans, features of the bundle), mean over the members asked; NaN without the modality."""
    fold = block.fold
    device = next(bundle.members[0].parameters()).device
    sex = torch.tensor(sexes, device=device)
    sums = {role: np.zeros((len(fold), len(names))) for role, names in bundle.info.features.items()}
    had = {role: np.zeros(len(fold), dtype=bool) for role in sums}
    times = np.zeros(len(fold), dtype=np.int64)
    for index, (member, own) in enumerate(zip(bundle.members, bundle.folds, strict=True)):
        mine = np.flatnonzero((fold < 0) | (fold == own))
        if not len(mine):
            continue
        taken = torch.from_numpy(mine).to(device)
        values = {role: value[taken] for role, value in bundle.inputs_of(index, block.x).items()}
        here = {role: mask[taken] for role, mask in block.present.items()}
        found = attribute_member(member, values, here, sex[taken])
        times[mine] += 1
        for role, years in found.years.items():
            place = {name: column for column, name in enumerate(bundle.info.features[role])}
            columns = np.array([place[name] for name in member.features(role)], dtype=np.int64)
            sums[role][np.ix_(mine, columns)] += years
            usable = member.prepare_role(role, values[role], here[role])[1].cpu().numpy()
            had[role][mine] |= usable & np.isfinite(found.age)
    return {
        role: np.where(had[role][:, None], total / np.maximum(times, 1)[:, None], np.nan)
        for role, total in sums.items()
    }
