"""How well a modality is rebuilt from its own codes, and from the other modality's.

Four ways to rebuild modality m of people who have both, from code means:

    own          G_m(c_m, u_m)      its own shared and its own distinct code
    cross        G_m(c_o, u_m)      the other modality's shared code, its own distinct code
    translated   G_m(c_o, 0)        the other's shared code alone: what is imputed where m is absent
    (stranger)   cross and translated again, with the other modality of somebody else

(A decoder that takes the sex is told the person's own.)

An error is a share of the variance of what is rebuilt: sum of squared errors over the sum of squared
deviations from the training people's mean. 0 is perfect, 1 is what the mean reaches. The gap between
cross and own is what the shared codes disagree about; the gap between a stranger's code and the person's
own is what the shared code truly carries over.

Of a volume, what is compared are the means over coarse blocks, also where the decoder gives every voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.codes import SMALLEST_SITE, CodeTable, encode_scans
from hpc_brainage.evaluation.probes import ridge_probe
from hpc_brainage.evaluation.splits import check_folds
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import TrainingData

_DECODED_AT_ONCE = 64


def rebuilding(
    members: Sequence[Member], data: TrainingData, fold: np.ndarray, *, strangers: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Errors of rebuilding each modality of held-out people who have both.

    Parameters
    ----------
    fold : the member that held out each scan, shape (scans,); -1 for none.
    strangers : how often other people's codes are dealt out among the held-out people of a member.

    Returns
    -------
    A row for each role that is rebuilt, with shares of variance `own`, `cross`, `gap` (cross - own),
    `cross_stranger`, `translated`, `translated_stranger`; `imputed_r2` (1 - translated); `ridge_r2`, the
    same of a ridge regression from the other modality's components, the simple rival; and `n` people.

    Raises
    ------
    UsageError : the model has one modality only, too few people have both, or the folds do not fit the
        members and the data.
    """
    check_folds(members, data, fold)
    roles = members[0].roles
    if len(roles) != 2:
        raise UsageError("codes can be crossed in a model of two modalities only", where=", ".join(roles))
    rng = np.random.default_rng(seed)
    sums: dict[str, dict[str, float]] = {role: {} for role in roles}
    n = 0
    for index, member in enumerate(members):
        if not (fold == index).any():
            continue
        table = encode_scans(member, data, np.arange(len(fold)))
        targets = table.components
        train, test = table.complete & (fold != index), table.complete & (fold == index)
        if train.sum() < SMALLEST_SITE or not test.any():
            continue
        n += int(test.sum())
        for role, other in (roles, roles[::-1]):
            truth = targets[role][test]
            rebuilt = _rebuilt(member, table, (role, other), test, data.sex[test], strangers, rng)
            rebuilt["ridge"] = ridge_probe(
                targets[other][train], targets[role][train], targets[other][test], 0, rng
            )
            rebuilt["mean"] = np.broadcast_to(targets[role][train].mean(axis=0), (1, *truth.shape))
            for way, said in rebuilt.items():
                error = float(((said - truth) ** 2).sum(axis=(1, 2)).mean())
                sums[role][way] = sums[role].get(way, 0.0) + error
    if not n:
        raise UsageError("too few people have both modalities", expected=f"at least {SMALLEST_SITE}")
    rows = []
    for role in roles:
        share = {way: error / sums[role]["mean"] for way, error in sums[role].items()}
        rows.append(
            {
                "rebuilt": role,
                "own": share["own"],
                "cross": share["cross"],
                "gap": share["cross"] - share["own"],
                "cross_stranger": share["cross_stranger"],
                "translated": share["translated"],
                "translated_stranger": share["translated_stranger"],
                "imputed_r2": 1 - share["translated"],
                "ridge_r2": 1 - share["ridge"],
                "n": n,
            }
        )
    return pd.DataFrame(rows)


def _rebuilt(
    member: Member,
    table: CodeTable,
    pair: tuple[str, str],
    rows: np.ndarray,
    sex: np.ndarray,
    strangers: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """What is rebuilt of the first role in each way, with the other's help: (draws, people, numbers)."""
    role, other = pair
    own, theirs, distinct = table.shared(role)[rows], table.shared(other)[rows], table.distinct(role)[rows]
    nothing = np.zeros_like(distinct)
    orders = [rng.permutation(len(theirs)) for _ in range(max(strangers, 1))]
    device, dtype = next(member.parameters()).device, next(member.parameters()).dtype

    @torch.no_grad()
    def decode(shared: np.ndarray, distinct: np.ndarray) -> np.ndarray:
        c, u = (torch.from_numpy(code).to(device, dtype) for code in (shared, distinct))
        whole = (c, u, torch.from_numpy(sex).to(device))
        parts = zip(*(each.split(_DECODED_AT_ONCE) for each in whole), strict=True)
        said = [_coarse(member, role, member.network.decode(role, *part)) for part in parts]
        return np.concatenate(said)

    return {
        "own": decode(own, distinct)[None],
        "cross": decode(theirs, distinct)[None],
        "translated": decode(theirs, nothing)[None],
        "cross_stranger": np.stack([decode(theirs[order], distinct) for order in orders]),
        "translated_stranger": np.stack([decode(theirs[order], nothing) for order in orders]),
    }


def _coarse(member: Member, role: str, target: torch.Tensor) -> np.ndarray:
    """What is compared of what a decoder gives: all of it, or of voxels their means over coarse blocks."""
    spec = member.network.branches[role]
    if spec.grid is not None and spec.decoder == "volume":
        target = F.adaptive_avg_pool3d(target.unflatten(1, (1, *spec.grid)), spec.coarse_grid).flatten(1)
    coarse: np.ndarray = target.double().cpu().numpy()
    return coarse
