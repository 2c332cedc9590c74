"""The objective: which terms it computes, and what is hidden from whom."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import UsageError
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.loop import hide_modalities
from hpc_brainage.training.objective import Batch, Objective

B = 12
BRANCHES = {"smri": BranchSpec("mlp", (8,), components=6), "fmri": BranchSpec("mlp", (8,), components=5)}


def objective(*settings: str) -> Objective:
    config = load_config(None, ["model.dropout=0.0", "model.shared=3", "model.distinct=2", *settings])
    torch.manual_seed(0)
    return Objective(SAAVAE(BRANCHES, config.model), config, seed=1)


def batch(progress: float = 1.0) -> Batch:
    draw = torch.Generator().manual_seed(3)
    present = {"smri": torch.arange(B) != 0, "fmri": torch.arange(B) % 3 != 1}
    counts = {role: int(mask.sum()) for role, mask in present.items()}
    counts |= {"pair": int((present["smri"] & present["fmri"]).sum()), "scans": B}
    x = {role: torch.randn(B, spec.components, generator=draw) for role, spec in BRANCHES.items()}
    age = torch.randn(B, generator=draw)
    return Batch(x, present, torch.arange(B) % 2, age, torch.arange(B), counts, 7, progress)


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
    shuffled = Batch(
        {role: x[order] for role, x in data.x.items()},
        {role: mask[order] for role, mask in data.present.items()},
        data.sex[order], data.age[order], data.scan[order], data.counts, data.step, data.progress,
    )  # fmt: skip
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
    rows = np.arange(4000)
    seen = hide_modalities(present, rows, settings, seed=0, step=3)
    assert torch.equal(seen["smri"][:1000], present["smri"][:1000])
    assert (seen["smri"] | seen["fmri"]).all()
    assert (~seen["fmri"][1000:]).float().mean() == pytest.approx(0.6, abs=0.03)
    shuffled = np.random.default_rng(0).permutation(4000)
    again = hide_modalities(present, shuffled, settings, seed=0, step=3)
    assert torch.equal(again["fmri"], seen["fmri"][torch.from_numpy(shuffled)])
    other = hide_modalities(present, rows, settings, seed=0, step=4)
    assert not torch.equal(other["fmri"], seen["fmri"])


def test_chances_that_would_hide_both_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 1"):
        load_config(None, ["training.drop_smri=0.6", "training.drop_fmri=0.6"])
    assert RunConfig().training.drop_smri + RunConfig().training.drop_fmri <= 1
