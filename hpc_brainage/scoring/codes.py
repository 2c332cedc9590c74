"""The codes of scored scans, for analyses that want more of a brain than one number.

Codes of two members have nothing in common: each learned axes of its own. So there is a row for each scan
and each member that may be asked, of the first member of each fold, and analyses compare rows of one
member only. Of a person in the model's training that is the member that never saw them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from hpc_brainage.model.bundle import Bundle
from hpc_brainage.scans import IDENTITY
from hpc_brainage.scoring.predictor import Block, Predictor

_SCANS_AT_ONCE = {"features": 4096, "volume": 8}


def codes_of(predictor: Predictor, rows: np.ndarray) -> pd.DataFrame:
    """Means of the codes of the store's rows `rows`, which have been scored.

    Returns
    -------
    `participant_id`, `session_id`, `run`, `member`, `fold` (which the member did not learn from),
    `in_training` (whether the person was in it), and float32 columns as `smri_shared_0` and
    `fmri_distinct_3`: NaN where the scan lacks the modality. Ordered by member, then as `rows`.
    """
    bundle, parts = predictor.bundle, []
    for some, block in blocks_of(predictor, rows):
        fold = block.fold
        who = predictor.store.scans.iloc[some][list(IDENTITY)].reset_index(drop=True)
        for index in range(0, len(bundle.members), bundle.info.config.training.ensemble):
            own = bundle.folds[index]
            mine = np.flatnonzero((fold < 0) | (fold == own))
            if len(mine):
                told = {"member": index, "fold": own, "in_training": fold[mine] == own}
                columns = pd.DataFrame(told | _codes(bundle, index, block, mine))
                parts.append(pd.concat([who.iloc[mine].reset_index(drop=True), columns], axis=1))
    if not parts:
        return pd.DataFrame({name: [] for name in (*IDENTITY, "member", "fold", "in_training")})
    return pd.concat(parts, ignore_index=True).sort_values("member", kind="stable", ignore_index=True)


def blocks_of(predictor: Predictor, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Block]]:
    """Rows of the store in pieces that fit into memory: their numbers, and what was read of them."""
    at_once = _SCANS_AT_ONCE["volume" if predictor.bundle.info.volumes else "features"]
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        yield some, predictor.read(some)


@torch.no_grad()
def _codes(bundle: Bundle, index: int, block: Block, mine: np.ndarray) -> dict[str, np.ndarray]:
    member = bundle.members[index]
    taken = torch.from_numpy(mine).to(next(member.parameters()).device)
    ready, here, _ = member.prepare(
        {role: value[taken] for role, value in bundle.inputs_of(index, block.x).items()},
        {role: mask[taken] for role, mask in block.present.items()},
    )
    found = {}
    for role, code in member.network.encode(ready, here).items():
        mean = torch.where(here[role][:, None], code.mu, torch.nan).float().cpu().numpy()
        for column in range(mean.shape[1]):
            distinct = column - code.shared_width
            name = f"{role}_shared_{column}" if distinct < 0 else f"{role}_distinct_{distinct}"
            found[name] = mean[:, column]
    return found
