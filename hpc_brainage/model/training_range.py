"""What the training people looked like, as arrays: ranges of features, clouds of codes, fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from hpc_brainage.model.fingerprint import Fingerprints


@dataclass(frozen=True)
class TrainingRange:
    """By role; each array's first axis is the fold that was held out when it was computed.

    Attributes
    ----------
    lowest, highest : float32 (folds, F), extremes of each of the bundle's features over everybody but the
        fold's people, in the feature's own unit. For features only.
    code_mean : float32 (folds, K), mean of the codes of the people that the first member of the fold
        learned from, encoded by it.
    code_whitening : float32 (folds, K, K), lower triangular L with L Lᵀ the inverse of their covariance.
    fingerprints : of the training scans. For features only.
    """

    lowest: dict[str, torch.Tensor] = field(default_factory=dict)
    highest: dict[str, torch.Tensor] = field(default_factory=dict)
    code_mean: dict[str, torch.Tensor] = field(default_factory=dict)
    code_whitening: dict[str, torch.Tensor] = field(default_factory=dict)
    fingerprints: dict[str, Fingerprints] = field(default_factory=dict)

    def distance(self, role: str, fold: int, code_BK: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distance (B,) of codes from those that the fold's first member learned from.

        Per dimension: the root of D² / K, so that a person like the training people has about 1, whatever
        the width of the code.
        """
        away = (code_BK - self.code_mean[role][fold]) @ self.code_whitening[role][fold]
        return away.square().mean(dim=1).sqrt()

    def beyond(self, role: str, fold: int | None, x_BF: torch.Tensor) -> torch.Tensor:
        """How many features (B,) lie outside what training people had; a missing one does not.

        Parameters
        ----------
        fold : the people to leave out of what training people had, or None for nobody.
        """
        low, high = self.lowest[role], self.highest[role]
        lowest = low.amin(dim=0) if fold is None else low[fold]
        highest = high.amax(dim=0) if fold is None else high[fold]
        outside = (x_BF < lowest).logical_or_(x_BF > highest)
        return outside.view(torch.uint8).sum(dim=1, dtype=torch.int32)  # of bool it takes twice as long

    def to(self, device: torch.device | str) -> TrainingRange:
        """The same on another device; fingerprints stay with the host, which compares them."""
        moved = {
            name: {role: value.to(device) for role, value in getattr(self, name).items()}
            for name in _TENSORS
        }
        return TrainingRange(**moved, fingerprints=self.fingerprints)

    def arrays(self) -> dict[str, torch.Tensor]:
        """All arrays by the names that they have in a bundle."""
        found = {f"{name}.{role}": v for name in _TENSORS for role, v in getattr(self, name).items()}
        for role, prints in self.fingerprints.items():
            for name in _PRINTS:
                found[f"fingerprints.{role}.{name}"] = torch.from_numpy(getattr(prints, name))
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, torch.Tensor]) -> TrainingRange:
        """What `arrays` gave.

        Raises
        ------
        KeyError, TypeError : an array is missing or has another name.
        """
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        prints: dict[str, dict[str, np.ndarray]] = {}
        for name, value in arrays.items():
            kind, role, *rest = name.split(".")
            if kind == "fingerprints":
                prints.setdefault(role, {})[rest[0]] = value.cpu().numpy()
            else:
                tensors.setdefault(kind, {})[role] = value
        return cls(**tensors, fingerprints={role: Fingerprints(**own) for role, own in prints.items()})


_TENSORS = ("lowest", "highest", "code_mean", "code_whitening")
_PRINTS = ("columns", "step", "marks", "fold")
