"""One training step's objective: the SA-AVAE, its discriminators, and the weighted sum of all terms.

The module is what the engine wraps: its forward takes a batch and gives the loss. Every term is divided
by counts of the whole step, over all processes, so that the number of processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from hpc_brainage.config import LossConfig, RunConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.losses.adversarial import adversarial_terms
from hpc_brainage.losses.age import age_loss, gaussian_nll, soft_label_loss
from hpc_brainage.losses.latent_block import Latent, LatentForm, latent_block
from hpc_brainage.losses.linear_mse import linear_multi_mse
from hpc_brainage.losses.multi_mse import masked_multi_mse
from hpc_brainage.losses.reconstruction import scan_weights
from hpc_brainage.losses.sex import reversed_gradient, sex_loss
from hpc_brainage.modality import ROLES
from hpc_brainage.model.networks import Discriminator
from hpc_brainage.model.noise import Draws, Stream
from hpc_brainage.model.regressor import AgeEstimate, age_bins
from hpc_brainage.model.sa_avae import SAAVAE, Code, drawn_parts

_SEX_IS_INPUT = ("concat", "embed", "film", "heads", "concat+decoder")


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
    counts : of the whole step, as `step_counts` gives them; ints, or tensors without dimensions.
    seed : of the member's draws; an int, or an int64 tensor without dimensions.
    step : number of the step in the member's training.
    progress : share of all steps done, in [0, 1].
    processes : in how many parts the step is computed, by as many processes or one after another.
    """

    x: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    sex: torch.Tensor
    age: torch.Tensor
    scan: torch.Tensor
    counts: Mapping[str, int | torch.Tensor]
    seed: int | torch.Tensor
    step: int
    progress: float
    processes: int = 1


class Objective(nn.Module):
    """The model, its discriminators, and the loss of a batch.

    Parameters
    ----------
    model : the SA-AVAE.
    config : the run's settings.
    single_pass : whether a discriminator is evaluated once, over a bridge (`losses.adversarial`), as an
        engine that shards parameters needs it; or twice, as `torch.func.vmap` over members needs it. The
        gradients are the same.
    """

    def __init__(self, model: SAAVAE, config: RunConfig, single_pass: bool = True) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.single_pass = single_pass
        settings, weights = config.model, config.loss
        self.discriminators = nn.ModuleDict()
        if weights.adversarial and settings.prior_shared in ("adversarial", "both"):
            self.discriminators["shared"] = Discriminator(settings.shared, settings.discriminator)
        if weights.adversarial and settings.prior_distinct in ("adversarial", "both"):
            self.discriminators["distinct"] = Discriminator(settings.distinct, settings.discriminator)
        if weights.sex and settings.sex == "adversarial":
            self.discriminators["sex"] = Discriminator(settings.shared, settings.discriminator)
        self.sex_classifier: Discriminator | None = None
        if weights.sex and settings.sex == "multitask":
            self.sex_classifier = Discriminator(model.joined_width, settings.regressor)
        self._form = _latent_form(model, config)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to descend, scaled for averaging over processes, and each term for the log.

        Raises
        ------
        TrainingError : a term is asked for that several processes cannot share.
        """
        weights = self.config.loss
        draws = Draws(batch.scan, batch.seed, batch.step)
        sex = self._seen_sex(batch, draws)
        latent, codes = self._latent(batch, sex, draws)
        terms: dict[str, torch.Tensor] = {"age": self._age(batch, latent, sex, draws)}
        total = weights.age * terms["age"]
        rebuilding, found = self._reconstructions(batch, codes, sex)
        terms |= found
        total = total + rebuilding
        if self._form.kl_shared or self._form.kl_distinct:
            terms["kl"] = latent.kl
            total = total + weights.kl * _warmup(weights, batch.progress) * terms["kl"]
        if self._form.ratio:
            terms["ratio"] = latent.ratio
            total = total + weights.ratio * terms["ratio"]
        for name in ("shared", "distinct"):
            if name in self.discriminators:
                total = total + self._adversarial(name, batch, codes, draws, terms)
        if "sex" in self.discriminators:
            # The discriminator learns at full rate, the encoders against it at the term's weight.
            terms["sex"] = self._sex_of_shared(batch, codes)
            total = total + terms["sex"]
        if self.sex_classifier is not None:
            logit = self.sex_classifier(latent.joined[0])  # of all modalities, and without sex
            someone = torch.stack(list(batch.present.values())).any(dim=0)
            terms["sex"] = sex_loss(logit, batch.sex, someone, batch.counts["sexed"])
            total = total + weights.sex * terms["sex"]
        return total * batch.processes, {name: term.detach() for name, term in terms.items()}

    # -- terms -------------------------------------------------------------------------------------

    def _latent(self, batch: Batch, sex: torch.Tensor, draws: Draws) -> tuple[Latent, dict[str, Code]]:
        """All that is made of the encoders' Gaussians, and each modality's code.

        Raises
        ------
        TrainingError : the ratio is one of sums, which several processes cannot share.
        """
        if self._form.ratio == "batch_sq" and batch.processes > 1:
            raise TrainingError(
                "a ratio of sums over the batch cannot be put together from several processes",
                where='loss.ratio_kind = "batch_sq"',
                expected="one process",
                hint="--set loss.ratio_kind=sq, or train with one process",
            )
        roles = self.model.roles
        with self._lower_precision(sex.device):
            gaussians = self.model.gaussians(batch.x, batch.present, draws)
        mu, log_variance = zip(*gaussians.values(), strict=True)
        counts = [batch.counts[role] for role in roles]
        latent = latent_block(
            mu,
            log_variance,
            [batch.present[role] for role in roles],
            sex if self.model.takes_sex_columns else None,
            draws,
            [*counts, batch.counts["pair"]] if len(roles) == 2 else counts,
            self._form,
        )
        made = zip(roles, mu, log_variance, latent.z.unbind(), strict=True)
        return latent, {role: Code(m, logs, z, self._form.shared) for role, m, logs, z in made}

    def _age(self, batch: Batch, latent: Latent, sex: torch.Tensor, draws: Draws) -> torch.Tensor:
        """The age error, averaged over the subsets of modalities that anybody in the step can be
        predicted from."""
        losses, shares = [], []
        joined = latent.joined.unbind()
        linear = self.model.linear(batch.x, batch.present)
        for number, (present, mask, count) in enumerate(self._age_subsets(batch)):
            estimate = self.model.regress_joined(joined[number], linear, present, sex, draws, number)
            losses.append(self._age_error(estimate, batch.age, mask, count))
            shares.append(torch.as_tensor(count, device=mask.device) > 0)
        someone = torch.stack(shares).to(losses[0])
        return torch.stack(losses).sum() / someone.sum().clamp(min=1)

    def _age_error(
        self, estimate: AgeEstimate, age: torch.Tensor, mask: torch.Tensor, count: int | torch.Tensor
    ) -> torch.Tensor:
        form = self.config.loss.age_form
        if form == "nll":
            assert estimate.log_variance is not None
            return gaussian_nll(estimate.mean, estimate.log_variance, age, mask, count)
        if form == "soft":
            assert estimate.logits is not None
            return soft_label_loss(estimate.logits, age_bins(estimate.logits), age, mask, count)
        return age_loss(estimate.mean, age, mask, count, form)

    def _age_subsets(
        self, batch: Batch
    ) -> list[tuple[dict[str, torch.Tensor], torch.Tensor, int | torch.Tensor]]:
        """(modalities as the regressor shall see them, scans that count, their number in the step)."""
        roles = self.model.roles
        everyone = torch.stack(list(batch.present.values())).any(dim=0)
        if len(self._form.subsets) == 1:
            return [(batch.present, everyone, batch.counts["scans"])]
        nobody = torch.zeros_like(everyone)
        pair = batch.present[roles[0]] & batch.present[roles[1]]
        subsets = [(batch.present, pair, batch.counts["pair"])]
        for role in roles:
            only = {other: batch.present[other] if other == role else nobody for other in roles}
            subsets.append((only, batch.present[role], batch.counts[role]))
        return subsets

    def _reconstructions(
        self, batch: Batch, codes: dict[str, Code], sex: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum of the terms `reconstruction`, `cross` and `translation`, as far as they have a
        weight, and each of them."""
        weights, model = self.config.loss, self.model
        names = ["reconstruction"] if weights.reconstruction else []
        if len(model.roles) == 2:
            names += [name for name in ("cross", "translation") if getattr(weights, name)]
        total = batch.age.new_zeros(())
        terms = dict.fromkeys(names, total)
        for role in model.roles if names else ():
            target, here, n = model.target(role, batch.x[role]), batch.present[role], batch.counts[role]
            own = codes[role]
            rebuilt_from = {"reconstruction": (own.shared, own.distinct, here, n)}
            for other in [other for other in model.roles if other != role]:
                both, n_both = here & batch.present[other], batch.counts["pair"]
                shared = codes[other].shared
                rebuilt_from["cross"] = (shared, own.distinct, both, n_both)
                rebuilt_from["translation"] = (shared, torch.zeros_like(own.distinct), both, n_both)
            used = [rebuilt_from[name] for name in names]
            shares_KB = torch.stack(
                [scan_weights(mask, count, target.shape[1], target.dtype) for *_, mask, count in used]
            )
            weight_K1 = torch.tensor([[getattr(weights, name)] for name in names]).to(shares_KB)
            loss, errors_KB = self._rebuilding_errors(
                role,
                torch.cat([shared for shared, *_ in used]),
                torch.cat([distinct for _, distinct, *_ in used]),
                sex.repeat(len(used)),
                target,
                weight_K1 * shares_KB,
            )
            total = total + loss
            for name, term in zip(names, (shares_KB * errors_KB).sum(dim=1).unbind(), strict=True):
                terms[name] = terms[name] + term
        return total, terms

    def _rebuilding_errors(
        self,
        role: str,
        shared_NC: torch.Tensor,
        distinct_NU: torch.Tensor,
        sex_N: torch.Tensor,
        target_BF: torch.Tensor,
        weights_KB: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum of squared errors of N = K·B rebuilt scans, and each scan's error (K, B).

        Where the decoder ends in a linear layer, that layer is part of the loss and nothing is rebuilt in
        full. Any other decoder's reconstructions are nobody else's, and may be overwritten.
        """
        K, B = weights_KB.shape
        with self._lower_precision(sex_N.device):
            last = self.model.before_last_layer(role, shared_NC, distinct_NU, sex_N)
            if last is None:
                rebuilt = self.model.decode(role, shared_NC, distinct_NU, sex_N)
        if last is None:
            return masked_multi_mse(rebuilt.view(K, B, -1), target_BF, weights_KB, overwrite=True)
        hidden_NH, layer = last
        return linear_multi_mse(hidden_NH.view(K, B, -1), layer.weight, layer.bias, target_BF, weights_KB)

    def _adversarial(
        self,
        part: str,
        batch: Batch,
        codes: dict[str, Code],
        draws: Draws,
        terms: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """What enters the objective for the adversarial prior of a part of the codes."""
        first = Stream.PRIOR_SHARED if part == "shared" else Stream.PRIOR_DISTINCT
        own = {role: getattr(code, part) for role, code in codes.items()}
        width = own[self.model.roles[0]].shape[1]
        streams = [first + ROLES.index(role) for role in own]
        prior = dict(zip(own, draws.normals(width, streams), strict=True))
        found = adversarial_terms(
            self.discriminators[part],
            own,
            prior,
            batch.present,
            batch.counts,
            self.config.loss.adversarial,
            self.single_pass,
        )
        ending = "" if part == "shared" else f"_{part}"
        terms[f"adversarial{ending}"] = found.encoder
        terms[f"discriminator{ending}"] = found.discriminator
        terms[f"discriminator{ending}_accuracy"] = found.accuracy
        return found.discriminator

    def _sex_of_shared(self, batch: Batch, codes: dict[str, Code]) -> torch.Tensor:
        """How badly the sex is told from the shared codes; the encoders learn to make it worse."""
        losses = []
        for role, code in codes.items():
            logit = self.discriminators["sex"](reversed_gradient(code.shared, self.config.loss.sex))
            n = batch.counts[f"{role}_sexed"]
            losses.append(sex_loss(logit, batch.sex, batch.present[role], n))
        return torch.stack(losses).mean()

    def _lower_precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Within it encoders and decoders compute in bfloat16 up to their last layers, if the run shall."""
        if self.config.training.precision == "fp32":
            return nullcontext()
        # Nothing is called twice in a step, so that casts of weights need not be remembered.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    def _seen_sex(self, batch: Batch, draws: Draws) -> torch.Tensor:
        """The sexes as the model sees them: some hidden, so that an unknown sex can be scored."""
        chance = self.config.training.sex_dropout
        if not chance or self.config.model.sex not in _SEX_IS_INPUT:
            return batch.sex
        hide = draws.uniform(1, Stream.SEX)[:, 0] < chance
        return torch.where(hide, torch.full_like(batch.sex, -1), batch.sex)


def step_counts(present: Mapping[str, torch.Tensor], sex: torch.Tensor) -> dict[str, torch.Tensor]:
    """`Batch.counts` of a step from the presence and the sex of all its scans, on all processes.

    By role the scans with the modality, and under `<role>_sexed` those of them whose sex is known; "pair"
    scans with both modalities; "scans" all that have any, and "sexed" those of known sex. Tensors without
    dimensions.
    """
    someone = torch.stack(list(present.values())).any(dim=0)
    known = (sex >= 0) & someone
    counts = {"scans": someone.sum(), "sexed": known.sum()}
    for role, here in present.items():
        counts |= {role: here.sum(), f"{role}_sexed": (here & known).sum()}
    everything = torch.stack(list(present.values())).all(dim=0)
    counts["pair"] = everything.sum() if len(present) == 2 else torch.zeros_like(counts["scans"])
    return counts


def _latent_form(model: SAAVAE, config: RunConfig) -> LatentForm:
    """What a run's settings ask of the latent block."""
    settings, weights, both = config.model, config.loss, len(model.roles) == 2
    draw_shared, draw_distinct = drawn_parts(settings)
    everything = (True,) * len(model.roles)
    subsets = [everything]
    if both and config.training.modality_training == "subsets":
        subsets += [(True, False), (False, True)]
    return LatentForm(
        shared=settings.shared,
        distinct=settings.distinct,
        streams=tuple(Stream.CODE + ROLES.index(role) for role in model.roles),
        joint_stream=int(Stream.JOINT),
        draw_shared=draw_shared,
        draw_distinct=draw_distinct,
        kl_shared=bool(weights.kl) and settings.prior_shared in ("kl", "both"),
        kl_distinct=bool(weights.kl) and settings.prior_distinct in ("kl", "both"),
        free_bits=weights.free_bits,
        ratio=weights.ratio_kind if weights.ratio and both else None,
        ratio_on=weights.ratio_on,
        missing=settings.missing,
        subsets=tuple(subsets),
    )


def _warmup(weights: LossConfig, progress: float) -> float:
    """The KL weight's rise from 0 to 1 over the first `kl_warmup` of the steps."""
    return 1.0 if not weights.kl_warmup else min(1.0, progress / weights.kl_warmup)
