"""The latent block's reference: what the model and the losses say one by one, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from latent_cases import FORMS, Case, case, outputs

from hpc_brainage.config import ModelConfig
from hpc_brainage.losses.backends import using
from hpc_brainage.losses.kl import kl_loss
from hpc_brainage.losses.latent_block import latent_block, latent_reference
from hpc_brainage.losses.ratio import ratio_loss
from hpc_brainage.model.regressor import sex_columns
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec


class _Given(torch.nn.Module):
    """An encoder that gives what a case says."""

    def __init__(self, mu: torch.Tensor, log_variance: torch.Tensor) -> None:
        super().__init__()
        self.code = mu, log_variance

    def forward(self, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return self.code


def one_by_one(given: Case) -> dict[str, torch.Tensor]:
    """The same from the model's own encode and join and from the losses, modality after modality."""
    form, roles = given.form, ("smri", "fmri")[: len(given.mu)]
    config = ModelConfig(shared=form.shared, distinct=form.distinct, missing=form.missing)
    model = SAAVAE({role: BranchSpec("mlp", (2,), components=1) for role in roles}, config)
    for role, mu, log_variance in zip(roles, given.mu, given.log_variance, strict=True):
        model.encoders[role] = _Given(mu, log_variance)
    present = dict(zip(roles, given.present, strict=True))
    x = {role: torch.zeros(len(given.mu[0]), 1, dtype=torch.float64) for role in roles}
    codes = model.encode(x, present, given.noise)
    joined = []
    for subset in form.subsets:
        seen = {role: mask & has for (role, mask), has in zip(present.items(), subset, strict=True)}
        one = model.join(codes, seen, given.noise)
        if given.sex is not None:
            codes_BR, presence = one.tensor_split([-len(roles)], dim=1)
            one = torch.cat([codes_BR, sex_columns(given.sex, one), presence], dim=1)
        joined.append(one)
    kl = ratio = torch.zeros((), dtype=torch.float64)
    for role, n in zip(roles, given.counts, strict=False):
        own = codes[role].mu[:, form.shared :], codes[role].log_variance[:, form.shared :]
        kl = kl + kl_loss(*own, present[role], n, form.free_bits)
    if form.ratio and len(roles) == 2:
        means = [
            replace(codes[role], z=codes[role].mu) if form.ratio_on == "mu" else codes[role]
            for role in roles
        ]
        ratio = ratio_loss(
            (means[0].shared, means[1].shared), (means[0].distinct, means[1].distinct),
            given.present[0] & given.present[1], given.counts[-1], form.ratio,
        )  # fmt: skip
    z = torch.stack([code.z for code in codes.values()])
    return {"z": z, "joined": torch.stack(joined), "kl": kl, "ratio": ratio}


@pytest.mark.parametrize("scans", [1, 7, 41])
@pytest.mark.parametrize(
    "name",
    ["as it is", "product of experts", "one modality", "one modality, product", "width one", "roots"],
)
def test_the_block_is_what_the_model_and_the_losses_say_one_by_one(name: str, scans: int) -> None:
    given = case(scans, **FORMS[name])
    found, _ = outputs(latent_reference, given)
    for part, expected in one_by_one(given).items():
        torch.testing.assert_close(found[part], expected.detach(), rtol=1e-13, atol=1e-14, msg=part)


@pytest.mark.parametrize("name", FORMS)
def test_the_gradients_are_those_of_finite_differences(name: str) -> None:
    given = case(3, here="all" if name == "of sums" else "some", **FORMS[name])

    def block(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        half = len(leaves) // 2
        own = replace(given, mu=list(leaves[:half]), log_variance=list(leaves[half:]))
        made = latent_reference(
            own.mu, own.log_variance, own.present, own.sex, own.noise, own.counts, own.form
        )
        return made.z, made.joined, made.kl, made.ratio

    assert torch.autograd.gradcheck(block, (*given.mu, *given.log_variance))


@pytest.mark.parametrize("name", FORMS)
def test_nan_and_infinity_in_absent_rows_change_no_bit(name: str) -> None:
    given = case(9, **FORMS[name])
    clean, slopes = outputs(latent_reference, given)
    for poison in (float("nan"), float("inf")):
        dirty = given.to(torch.float64)
        with torch.no_grad():
            for tensors in (dirty.mu, dirty.log_variance):
                for one, mask in zip(tensors, dirty.present, strict=True):
                    one[~mask] = poison
        found, found_slopes = outputs(latent_reference, dirty)
        assert all(torch.equal(found[part], clean[part]) for part in clean)
        assert all(torch.equal(a, b) for a, b in zip(found_slopes, slopes, strict=True))


@pytest.mark.parametrize("name", ["as it is", "product of experts", "of sums", "one modality"])
def test_a_step_of_nobody_has_no_terms_and_no_gradients(name: str) -> None:
    found, slopes = outputs(latent_reference, case(4, here="nobody", **FORMS[name]))
    assert float(found["kl"]) == float(found["ratio"]) == 0
    assert not found["z"].any()
    assert all(not slope.any() for slope in slopes)


def test_neither_the_order_of_a_batch_nor_who_else_is_in_it_changes_a_scan() -> None:
    given = case(9)
    whole, _ = outputs(latent_reference, given)
    for rows in (torch.tensor([4, 0, 8, 2, 1, 3, 5, 6, 7]), torch.tensor([5]), torch.tensor([7, 2, 6])):
        part, _ = outputs(latent_reference, given.among(rows))
        assert torch.equal(part["z"], whole["z"][:, rows])
        assert torch.equal(part["joined"], whole["joined"][:, rows])


def test_members_in_one_pass_get_what_each_gets_alone() -> None:
    given = case(6)
    seeds = torch.tensor([3, 2**40 + 1])
    mu = [torch.stack([one, one + 1]).detach() for one in given.mu]

    def kl_and_codes(seed: torch.Tensor, own: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        noise = replace(given.noise, seed=seed)
        made = latent_block(
            own, given.log_variance, given.present, given.sex, noise, given.counts, given.form
        )
        return made.kl, made.joined

    with using("tiled"):
        kl, joined = torch.func.vmap(kl_and_codes)(seeds, mu)
    for place, seed in enumerate(seeds.tolist()):
        alone = replace(given, mu=[one[place] for one in mu], noise=replace(given.noise, seed=seed))
        made = latent_block(
            alone.mu, alone.log_variance, alone.present, alone.sex, alone.noise, alone.counts, alone.form
        )
        torch.testing.assert_close(kl[place], made.kl)
        torch.testing.assert_close(joined[place], made.joined)


@pytest.mark.parametrize("form", ["reference", "tiled"])
@pytest.mark.parametrize(
    ("part", "becomes", "says"),
    [
        ("present", torch.int64, "one bool"),
        ("log_variance", torch.float32, "one floating type"),
        ("mu", torch.int64, "one floating type"),
        ("log_variance", "meta", "one device"),
        ("present", "meta", "one device"),
    ],
)
def test_types_and_devices_that_do_not_belong_together_are_refused(
    form: str, part: str, becomes: torch.dtype | str, says: str
) -> None:
    given = case(5)
    given = replace(given, **{part: [one.to(becomes) for one in getattr(given, part)]})
    with using(form), pytest.raises(ValueError, match=says):  # type: ignore[arg-type]
        latent_block(*(getattr(given, name) for name in given.__dataclass_fields__))


@pytest.mark.parametrize("wrong", ["mu", "log_variance", "counts", "subsets"])
def test_shapes_that_do_not_belong_together_are_refused(wrong: str) -> None:
    given = case(5)
    if wrong == "subsets":
        given = replace(given, form=replace(given.form, subsets=((True,),)))
    elif wrong == "counts":
        given = replace(given, counts=given.counts[:2])
    else:
        given = replace(given, **{wrong: [one[:, :1] for one in getattr(given, wrong)]})
    with pytest.raises(ValueError, match=r"subsets differ|is not a code of 5"):
        latent_block(
            given.mu, given.log_variance, given.present, given.sex, given.noise, given.counts, given.form
        )
