"""One training step's objective: the SA-AVAE, its discriminator, and the weighted sum of all terms.

The module is what the engine wraps: its forward takes a batch and gives the loss. Every term is divided
by counts of the whole step, over all processes, so that the number of processes changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from hpc_brainage.config import LossConfig, RunConfig
from hpc_brainage.losses.adversarial import adversarial_terms
from hpc_brainage.losses.age import age_loss
from hpc_brainage.losses.kl import kl_loss
from hpc_brainage.losses.ratio import ratio_loss
from hpc_brainage.losses.reconstruction import reconstruction_loss
from hpc_brainage.model.networks import Discriminator
from hpc_brainage.model.noise import normal, uniform
from hpc_brainage.model.sa_avae import SAAVAE, Code

# What a draw is for: each purpose has a stream of its own.
_STREAM_CODE = {"smri": 0, "fmri": 1}
_STREAM_PRIOR = {"smri": 2, "fmri": 3}
STREAM_SEX = 4
STREAM_MODALITY = 5


@dataclass(frozen=True)
class Batch:
    """This process's scans of one step, on the device of the model.

    Parameters
    ----------
    x : by role, components (B, P) or volumes (B, X, Y, Z).
    present : by role, bool (B,).
    sex : (B,) 0 for F, 1 for M, -1 for unknown.
    age : (B,) on the regression's scale.
    scan : (B,) int64, the scan's number in the run; keys the noise.
    counts : scans of the whole step that have the modality, by role, and "pair" for both.
    step : number of the step in the member's training.
    progress : share of all steps done, in [0, 1].
    processes : how many processes share the step.
    """

    x: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    sex: torch.Tensor
    age: torch.Tensor
    scan: torch.Tensor
    counts: dict[str, int]
    step: int
    progress: float
    processes: int = 1


class Objective(nn.Module):
    """The model, its discriminator, and the loss of a batch."""

    def __init__(self, model: SAAVAE, config: RunConfig, seed: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed
        self.discriminator: Discriminator | None = None
        if config.loss.adversarial and config.model.prior_shared in ("adversarial", "both"):
            self.discriminator = Discriminator(config.model.shared, config.model.discriminator)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to descend, scaled for averaging over processes, and each term for the log."""
        weights = self.config.loss
        batch = self._with_hidden_sex(batch)
        codes = self.model.encode(batch.x, batch.present, self._noise(batch))
        terms: dict[str, torch.Tensor] = {"age": self._age(batch, codes)}
        total = weights.age * terms["age"]
        if weights.reconstruction or weights.cross:
            total = total + self._reconstructions(batch, codes, terms)
        if weights.kl and (self._kl_on_shared or self._kl_on_distinct):
            terms["kl"] = self._kl(batch, codes)
            total = total + weights.kl * _warmup(weights, batch.progress) * terms["kl"]
        if weights.ratio and len(self.model.roles) == 2:
            terms["ratio"] = self._ratio(batch, codes)
            total = total + weights.ratio * terms["ratio"]
        if self.discriminator is not None:
            adversarial = adversarial_terms(
                self.discriminator,
                {role: code.shared for role, code in codes.items()},
                self._prior(batch),
                batch.present,
                batch.counts,
                weights.adversarial,
            )
            terms["adversarial"] = adversarial.encoder
            terms["discriminator"] = adversarial.discriminator
            terms["discriminator_accuracy"] = adversarial.accuracy
            total = total + adversarial.discriminator
        return total * batch.processes, {name: term.detach() for name, term in terms.items()}

    # -- terms -------------------------------------------------------------------------------------

    def _age(self, batch: Batch, codes: dict[str, Code]) -> torch.Tensor:
        """The age error, averaged over the subsets of modalities that are trained on."""
        losses = []
        for present, mask, count in self._age_subsets(batch):
            predicted = self.model.regress(codes, batch.x, present, batch.sex)
            losses.append(age_loss(predicted, batch.age, mask, count, self.config.loss.age_form))
        return torch.stack(losses).mean()

    def _age_subsets(self, batch: Batch) -> list[tuple[dict[str, torch.Tensor], torch.Tensor, int]]:
        """(modalities as the regressor shall see them, scans that count, their number in the step)."""
        roles = self.model.roles
        everyone = torch.ones_like(batch.present[roles[0]])
        if len(roles) == 1 or self.config.training.modality_training != "subsets":
            return [(batch.present, everyone, batch.counts["scans"])]
        nobody = torch.zeros_like(everyone)
        subsets = []
        if batch.counts["pair"]:
            pair = batch.present[roles[0]] & batch.present[roles[1]]
            subsets.append((batch.present, pair, batch.counts["pair"]))
        for role in roles:
            if batch.counts[role]:
                only = {other: batch.present[other] if other == role else nobody for other in roles}
                subsets.append((only, batch.present[role], batch.counts[role]))
        return subsets

    def _reconstructions(
        self, batch: Batch, codes: dict[str, Code], terms: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        weights = self.config.loss
        total = batch.age.new_zeros(())
        own = cross = total
        for role in self.model.roles:
            target = self.model.target(role, batch.x[role])
            here = batch.present[role]
            if weights.reconstruction:
                rebuilt = self.model.decode(role, codes[role].shared, codes[role].distinct)
                own = own + reconstruction_loss(rebuilt, target, here, batch.counts[role])
            if weights.cross and len(self.model.roles) == 2:
                other = next(r for r in self.model.roles if r != role)
                rebuilt = self.model.decode(role, codes[other].shared, codes[role].distinct)
                both = here & batch.present[other]
                cross = cross + reconstruction_loss(rebuilt, target, both, batch.counts["pair"])
        if weights.reconstruction:
            terms["reconstruction"] = own
            total = total + weights.reconstruction * own
        if weights.cross and len(self.model.roles) == 2:
            terms["cross"] = cross
            total = total + weights.cross * cross
        return total

    @property
    def _kl_on_shared(self) -> bool:
        return self.config.model.prior_shared in ("kl", "both")

    @property
    def _kl_on_distinct(self) -> bool:
        return self.config.model.prior_distinct == "kl"

    def _kl(self, batch: Batch, codes: dict[str, Code]) -> torch.Tensor:
        shared_width = self.config.model.shared
        first = 0 if self._kl_on_shared else shared_width
        last = None if self._kl_on_distinct else shared_width
        total = batch.age.new_zeros(())
        for role, code in codes.items():
            mu, log_variance = code.mu[:, first:last], code.log_variance[:, first:last]
            total = total + kl_loss(mu, log_variance, batch.present[role], batch.counts[role])
        return total

    def _ratio(self, batch: Batch, codes: dict[str, Code]) -> torch.Tensor:
        one, other = (codes[role] for role in self.model.roles)
        if self.config.loss.ratio_on == "mu":
            one, other = one.at_mean(), other.at_mean()
        pair = batch.present[self.model.roles[0]] & batch.present[self.model.roles[1]]
        return ratio_loss(
            (one.shared, other.shared),
            (one.distinct, other.distinct),
            pair,
            batch.counts["pair"],
            self.config.loss.ratio_kind,
        )

    # -- draws -------------------------------------------------------------------------------------

    def _noise(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Standard normal draws for the codes, by scan and step."""
        width = self.config.model.shared + self.config.model.distinct
        return {
            role: normal(batch.scan, width, seed=self.seed, step=batch.step, stream=_STREAM_CODE[role])
            for role in self.model.roles
        }

    def _prior(self, batch: Batch) -> dict[str, torch.Tensor]:
        width = self.config.model.shared
        return {
            role: normal(batch.scan, width, seed=self.seed, step=batch.step, stream=_STREAM_PRIOR[role])
            for role in self.model.roles
        }

    def _with_hidden_sex(self, batch: Batch) -> Batch:
        """Hide the sex of a few people, so that an unknown sex can be scored."""
        u = uniform(batch.scan, 1, seed=self.seed, step=batch.step, stream=STREAM_SEX)[:, 0]
        hidden = torch.full_like(batch.sex, -1)
        return replace(batch, sex=torch.where(u < self.config.training.sex_dropout, hidden, batch.sex))


def _warmup(weights: LossConfig, progress: float) -> float:
    """The KL weight's rise from 0 to 1 over the first `kl_warmup` of the steps."""
    return 1.0 if not weights.kl_warmup else min(1.0, progress / weights.kl_warmup)
