"""The objective: which terms it computes, and what is hidden from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stacked_batches import stacked_fields
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import UsageError
from hpc_brainage.model.noise import Draws
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.objective import Batch, Objective, step_counts
from hpc_brainage.training.steps import hide_modalities

B = 12
BRANCHES = {"smri": BranchSpec("mlp", (8,), components=6), "fmri": BranchSpec("mlp", (8,), components=5)}


def objective(*settings: str) -> Objective:
    config = load_config(None, ["model.dropout=0.0", "model.shared=3", "model.distinct=2", *settings])
    torch.manual_seed(0)
    return Objective(SAAVAE(BRANCHES, config.model), config)


def batch(progress: float = 1.0) -> Batch:
    draw = torch.Generator().manual_seed(3)
    present = {"smri": torch.arange(B) != 0, "fmri": torch.arange(B) % 3 != 1}
    counts = {role: int(mask.sum()) for role, mask in present.items()}
    counts |= {"pair": int((present["smri"] & present["fmri"]).sum()), "scans": B}
    x = {role: torch.randn(B, spec.components, generator=draw) for role, spec in BRANCHES.items()}
    age = torch.randn(B, generator=draw)
    return Batch(x, present, torch.arange(B) % 2, age, torch.arange(B), counts, 1, 7, progress)


@pytest.mark.parametrize(
    ("shared", "distinct", "has_kl", "has_discriminator"),
    [
        ("adversarial", "kl", True, True),
        ("adversarial", "none", False, True),
        ("kl", "none", True, False),
        ("both", "none", True, True),
        ("none", "none", False, False),
    ],
)
def test_the_priors_that_are_asked_for_are_computed(
    shared: str, distinct: str, has_kl: bool, has_discriminator: bool
) -> None:
    terms = objective(f"model.prior_shared={shared}", f"model.prior_distinct={distinct}")(batch())[1]
    assert ("kl" in terms) is has_kl
    assert ("discriminator" in terms) is has_discriminator


def test_kl_covers_the_codes_that_it_is_a_prior_of() -> None:
    both = objective("model.prior_shared=both")(batch())[1]["kl"]
    shared = objective("model.prior_shared=both", "model.prior_distinct=none")(batch())[1]["kl"]
    distinct = objective()(batch())[1]["kl"]
    torch.testing.assert_close(both, shared + distinct)


def test_absent_rows_change_no_bit_of_the_loss_or_of_any_gradient() -> None:
    def gradients(poison: float | None) -> list[torch.Tensor]:
        made, data = objective(), batch()
        if poison is not None:
            for role, mask in data.present.items():
                data.x[role][~mask] = poison
        loss, _ = made(data)
        loss.backward()
        return [loss.detach(), *(p.grad for p in made.parameters() if p.grad is not None)]

    clean = gradients(None)
    for poison in (float("nan"), float("inf"), 1e30):
        for a, b in zip(clean, gradients(poison), strict=True):
            assert torch.equal(a, b)


def test_the_order_of_a_batch_does_not_matter() -> None:
    data = batch()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        data,
        x={role: x[order] for role, x in data.x.items()},
        present={role: mask[order] for role, mask in data.present.items()},
        sex=data.sex[order],
        age=data.age[order],
        scan=data.scan[order],
    )
    one, other = objective()(data), objective()(shuffled)
    torch.testing.assert_close(one[0], other[0])
    for name, term in one[1].items():
        torch.testing.assert_close(term, other[1][name])


def test_the_kl_weight_warms_up() -> None:
    settings = ("loss.kl=1.0", "loss.kl_warmup=0.5")
    cold, half, warm = (objective(*settings)(batch(p)) for p in (0.0, 0.25, 0.5))
    kl = cold[1]["kl"]
    torch.testing.assert_close(half[0] - cold[0], 0.5 * kl)
    torch.testing.assert_close(warm[0] - cold[0], kl)


def test_hidden_modalities_depend_on_the_scan_and_leave_everybody_one() -> None:
    settings = load_config(
        None, ["training.modality_training=dropout", "training.drop_smri=0.4", "training.drop_fmri=0.6"]
    ).training
    present = {"smri": torch.ones(4000, dtype=torch.bool), "fmri": torch.ones(4000, dtype=torch.bool)}
    present["fmri"][:1000] = False
    rows = torch.arange(4000)
    seen = hide_modalities(present, settings, Draws(rows, 0, 3))
    assert torch.equal(seen["smri"][:1000], present["smri"][:1000])
    assert (seen["smri"] | seen["fmri"]).all()
    assert (~seen["fmri"][1000:]).float().mean() == pytest.approx(0.6, abs=0.03)
    shuffled = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    there = {role: mask[shuffled] for role, mask in present.items()}
    again = hide_modalities(there, settings, Draws(shuffled, 0, 3))
    assert torch.equal(again["fmri"], seen["fmri"][shuffled])
    other = hide_modalities(present, settings, Draws(rows, 0, 4))
    assert not torch.equal(other["fmri"], seen["fmri"])


def test_chances_that_would_hide_both_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 1"):
        load_config(None, ["training.drop_smri=0.6", "training.drop_fmri=0.6"])
    assert RunConfig().training.drop_smri + RunConfig().training.drop_fmri <= 1


def gradients_of(made: Objective, given: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss, _ = made(given)
    names, parameters = zip(*made.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    zeros = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))
    return loss.detach(), dict(zip(names, zeros, strict=True))


def in_double(given: Batch) -> Batch:
    return replace(given, x={r: x.double() for r, x in given.x.items()}, age=given.age.double())


@pytest.mark.parametrize("shared", ["adversarial", "both"])
def test_one_evaluation_of_the_discriminator_and_two_give_the_same_gradients(shared: str) -> None:
    settings = (f"model.prior_shared={shared}", "model.dropout=0.3", "loss.adversarial=0.7")
    once = objective(*settings).double()
    twice = Objective(once.model, once.config, single_pass=False)
    twice.discriminators = once.discriminators
    first, second = gradients_of(once, in_double(batch())), gradients_of(twice, in_double(batch()))
    torch.testing.assert_close(first[0], second[0], rtol=1e-12, atol=0)
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], rtol=1e-12, atol=1e-14, msg=name)


def assert_stacked_members_learn_what_each_learns_alone(*settings: str) -> None:
    """Loss and gradients of three members in one pass, against each by itself; float64."""
    members, given = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        config = load_config(None, ["model.shared=3", "model.distinct=2", "model.dropout=0.3", *settings])
        model = SAAVAE(BRANCHES, config.model)
        members.append(Objective(model, config, single_pass=False).double())
        own = in_double(batch())
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(B, generator=generator)
        present = {role: mask[order] for role, mask in own.present.items()}
        if seed == 2:
            present["fmri"] = torch.zeros(B, dtype=torch.bool)  # a step without any fMRI, so without pairs
        sex = torch.randint(-1, 2, (B,), generator=generator)
        given.append(
            replace(
                own, x={r: x[order] for r, x in own.x.items()}, present=present, sex=sex,
                scan=own.scan[order], seed=torch.tensor(10 + seed), counts=step_counts(present, sex),
            )
        )  # fmt: skip
    parameters, _ = stack_module_state(members)
    stacked = stacked_fields(given)

    def loss(own: dict[str, torch.Tensor], varied: dict) -> torch.Tensor:
        one = replace(given[0], **varied)
        return functional_call(members[0], own, (one,))[0]

    gradients, losses = vmap(grad_and_value(loss))(parameters, stacked)
    for place, (member, own) in enumerate(zip(members, given, strict=True)):
        expected, alone = gradients_of(member, own)
        torch.testing.assert_close(losses[place], expected, rtol=1e-12, atol=0)
        for name, gradient in alone.items():
            torch.testing.assert_close(gradients[name][place], gradient, rtol=1e-10, atol=1e-13, msg=name)


def test_stacked_members_learn_what_each_learns_alone() -> None:
    assert_stacked_members_learn_what_each_learns_alone()
