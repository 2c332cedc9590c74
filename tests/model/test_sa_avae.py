"""The network: masks that select, borrowed codes, and where sex enters."""

from __future__ import annotations

import math

import pytest
import torch

from hpc_brainage.config import ModelConfig
from hpc_brainage.model.noise import Draws
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec

B = 6
BRANCHES = {"smri": BranchSpec("mlp", (16,), components=10), "fmri": BranchSpec("mlp", (8,), components=7)}


@pytest.fixture
def model() -> SAAVAE:
    torch.manual_seed(0)
    made = SAAVAE(BRANCHES, ModelConfig(shared=3, distinct=2, dropout=0.0, regressor=(8,)))
    for path in made.linear_paths.values():
        torch.nn.init.normal_(path.weight)
    return made.eval()


def inputs(model: SAAVAE) -> tuple[dict, dict, torch.Tensor]:
    torch.manual_seed(1)
    x = {role: torch.randn(B, spec.components) for role, spec in model.branches.items()}
    present = {
        "smri": torch.tensor([True, True, True, True, False, False]),
        "fmri": torch.tensor([True, True, False, False, True, False]),
    }
    return x, present, torch.tensor([0, 1, 0, 1, -1, 0])


def ages(model: SAAVAE, x: dict, present: dict, sex: torch.Tensor) -> torch.Tensor:
    return model.regress(model.encode(x, present), x, present, sex).mean


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_what_stands_in_an_absent_row_changes_no_bit(model: SAAVAE, poison: float) -> None:
    x, present, sex = inputs(model)
    before = ages(model, x, present, sex)
    for role, mask in present.items():
        x[role][~mask] = poison
    assert torch.equal(before, ages(model, x, present, sex))


def test_an_absent_modality_gives_finite_and_zero_gradients(model: SAAVAE) -> None:
    x, present, sex = inputs(model)
    x["fmri"][:] = float("nan")
    present["fmri"][:] = False
    ages(model, x, present, sex).sum().backward()
    for name, parameter in model.named_parameters():
        if "fmri" in name and parameter.grad is not None:
            assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name


def test_a_person_without_fmri_borrows_the_shared_code_and_gets_no_distinct_one(model: SAAVAE) -> None:
    x, present, sex = inputs(model)
    codes = model.encode(x, present)
    seen: dict[str, torch.Tensor] = {}
    model.regressor.register_forward_pre_hook(lambda _, args: seen.update(r=args[0]))
    model.regress(codes, x, present, sex)
    c, u = 3, 2
    row = seen["r"][2]  # sMRI only
    assert torch.equal(row[:c], codes["smri"].shared[2])
    assert torch.equal(row[c + u : 2 * c + u], codes["smri"].shared[2])
    assert torch.equal(row[2 * c + u : 2 * (c + u)], torch.zeros(u))
    assert row[-2:].tolist() == [1.0, 0.0]
    assert row[2 * (c + u) : -2].tolist() == [1.0, 0.0]


def test_hiding_a_modality_equals_never_having_had_it(model: SAAVAE) -> None:
    x, present, sex = inputs(model)
    hidden = {"smri": present["smri"], "fmri": torch.zeros(B, dtype=torch.bool)}
    later = model.regress(model.encode(x, present), x, hidden, sex).mean
    torch.testing.assert_close(later, ages(model, x, hidden, sex), rtol=0, atol=0)


def test_presence_matters_more_than_zeros(model: SAAVAE) -> None:
    """Zeros that pretend to be an fMRI must not give what a missing fMRI gives."""
    x, present, sex = inputs(model)
    x["fmri"][2:4] = 0.0
    honest = ages(model, x, present, sex)
    pretending = {"smri": present["smri"], "fmri": torch.ones(B, dtype=torch.bool)}
    assert not torch.isclose(honest[2:4], ages(model, x, pretending, sex)[2:4]).any()


@pytest.mark.parametrize(("mode", "differs"), [("concat", True), ("none", False)])
def test_sex_reaches_the_age_only_if_it_is_joined(mode: str, differs: bool) -> None:
    torch.manual_seed(0)
    model = SAAVAE(BRANCHES, ModelConfig(sex=mode, dropout=0.0)).eval()  # type: ignore[arg-type]
    x, present, sex = inputs(model)
    flipped = ages(model, x, present, 1 - sex.clamp(min=0))
    changed = ~torch.isclose(ages(model, x, present, sex.clamp(min=0)), flipped)
    assert bool(changed.all()) is differs or bool(changed.any()) is differs


def test_swapping_the_modalities_with_their_networks_leaves_the_age() -> None:
    torch.manual_seed(0)
    config = ModelConfig(shared=3, distinct=2, dropout=0.0, regressor=(8,))
    model = SAAVAE(BRANCHES, config).eval()
    other = SAAVAE({"smri": BRANCHES["fmri"], "fmri": BRANCHES["smri"]}, config).eval()
    swap = {"smri": "fmri", "fmri": "smri"}
    state = {}
    for name, value in model.state_dict().items():
        parts = [swap.get(part, part) for part in name.split(".")]
        state[".".join(parts)] = value.clone()
    first = state["regressor.trunk.0.weight"]
    code = 5
    order = [*range(code, 2 * code), *range(code), 10, 11, 13, 12]
    state["regressor.trunk.0.weight"] = first[:, order]
    other.load_state_dict(state)
    x, present, sex = inputs(model)
    swapped = ages(other, {swap[r]: v for r, v in x.items()}, {swap[r]: v for r, v in present.items()}, sex)
    torch.testing.assert_close(ages(model, x, present, sex), swapped)


def test_a_model_of_one_modality_works() -> None:
    torch.manual_seed(0)
    model = SAAVAE({"smri": BRANCHES["smri"]}, ModelConfig()).eval()
    x, present, sex = inputs(model)
    assert ages(model, {"smri": x["smri"]}, {"smri": present["smri"]}, sex).shape == (B,)


def test_a_volume_branch_encodes_and_rebuilds_its_coarse_means() -> None:
    torch.manual_seed(0)
    spec = BranchSpec("sfcn", (4, 8), grid=(24, 27, 24))
    model = SAAVAE({"smri": spec}, ModelConfig(shared=3, distinct=2)).eval()
    x = {"smri": torch.randn(2, 24, 27, 24)}
    present = {"smri": torch.ones(2, dtype=torch.bool)}
    codes = model.encode(x, present)
    target = model.target("smri", x["smri"])
    assert model.decode("smri", codes["smri"].shared, codes["smri"].distinct).shape == target.shape
    torch.testing.assert_close(target.mean(), x["smri"].mean(), atol=1e-6, rtol=0)
    assert model.regress(codes, x, present, torch.tensor([0, 1])).mean.shape == (2,)


def test_the_product_of_experts_is_the_posterior_of_the_shared_code(model: SAAVAE) -> None:
    """Prior N(0, 1) and one measurement of each modality there is, by Bayes' rule."""
    experts = SAAVAE(BRANCHES, model.config.model_copy(update={"missing": "poe"})).eval()
    experts.load_state_dict(model.state_dict())
    x, present, _ = inputs(model)
    codes = experts.encode(x, present)
    joined = experts.join(codes, present).detach()
    c, u = 3, 2
    for row in range(B):
        mean, precision = torch.zeros(c), torch.ones(c)
        for role in experts.roles:
            if present[role][row]:
                own = 1 / codes[role].log_variance[row, :c].exp()
                mean, precision = mean + own * codes[role].mu[row, :c], precision + own
        for place in (0, c + u):
            torch.testing.assert_close(joined[row, place : place + c], (mean / precision).detach())
    assert torch.equal(joined[5, : 2 * (c + u)], torch.zeros(2 * (c + u))), "nobody there: the prior's mean"


def test_a_draw_of_the_product_has_its_spread() -> None:
    torch.manual_seed(0)
    config = ModelConfig(shared=2, distinct=1, dropout=0.0, missing="poe", sample="always")
    model = SAAVAE(BRANCHES, config).double()
    for encoder in model.encoders.values():
        torch.nn.init.constant_(encoder.log_variance.bias, 0.7)
        torch.nn.init.zeros_(encoder.log_variance.weight)
    n = 20_000
    x = {role: torch.ones(n, spec.components).double() for role, spec in BRANCHES.items()}
    present = {role: torch.ones(n, dtype=torch.bool) for role in BRANCHES}
    draws = Draws(torch.arange(n), 5, 3)
    drawn = model.join(model.encode(x, present, draws), present, draws)[:, :2].detach()
    mean = model.join(model.encode(x, present), present)[:, :2].detach()
    precision = 1 + 2 * math.exp(-0.7)
    assert float((drawn - mean).mean().abs()) < 4 / math.sqrt(n * precision)
    assert float((drawn - mean).var()) == pytest.approx(1 / precision, rel=0.03)


def test_an_absent_modality_is_imputed_from_the_other_s_shared_code(model: SAAVAE) -> None:
    x, present, _ = inputs(model)
    codes = model.encode(x, present)
    imputed = model.impute("fmri", codes)
    assert imputed.shape == (B, 7)
    assert torch.equal(imputed, model.decode("fmri", codes["smri"].shared, torch.zeros(B, 2)))
    x["fmri"] = torch.randn(B, 7)
    assert torch.equal(imputed, model.impute("fmri", model.encode(x, present))), "its own data play no part"
    alone = SAAVAE({"smri": BRANCHES["smri"]}, ModelConfig())
    with pytest.raises(ValueError, match="nothing to impute it from"):
        alone.impute("smri", {})


@pytest.mark.parametrize("mode", ["none", "concat", "embed", "film", "heads", "concat+decoder"])
def test_sex_flips_only_the_paths_that_its_mode_declares(mode: str) -> None:
    torch.manual_seed(0)
    model = SAAVAE(BRANCHES, ModelConfig(sex=mode, dropout=0.0)).eval()  # type: ignore[arg-type]
    for layer in model.regressor.film:
        torch.nn.init.normal_(layer.weight)
    x, present, _ = inputs(model)
    codes = model.encode(x, present)
    female, male = torch.zeros(B, dtype=torch.int64), torch.ones(B, dtype=torch.int64)
    ages_differ = ~torch.isclose(
        model.regress(codes, x, present, female).mean, model.regress(codes, x, present, male).mean
    )
    assert bool(ages_differ.all()) is bool(ages_differ.any()) is (mode != "none")
    c, u = codes["smri"].shared, codes["smri"].distinct
    rebuilt_differ = ~torch.isclose(model.decode("smri", c, u, female), model.decode("smri", c, u, male))
    assert bool(rebuilt_differ.any()) is (mode == "concat+decoder")
    unknown = torch.full((B,), -1)
    assert torch.equal(model.decode("smri", c, u), model.decode("smri", c, u, unknown))


def test_nothing_is_random_without_draws_and_nothing_uses_the_global_generator() -> None:
    model = SAAVAE(BRANCHES, ModelConfig(dropout=0.5)).train()
    x, present, sex = inputs(model)
    draws = Draws(torch.arange(B), 3, 4)
    assert torch.equal(ages(model, x, present, sex), ages(model, x, present, sex))
    state = torch.get_rng_state()
    drawn = [model.regress(model.encode(x, present, draws), x, present, sex, draws).mean for _ in range(2)]
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.isclose(drawn[0], ages(model, x, present, sex))[:5].any()
