"""The network: masks that select, borrowed codes, and where sex enters."""

from __future__ import annotations

import pytest
import torch

from hpc_brainage.config import ModelConfig
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
    return model.regress(model.encode(x, present), x, present, sex)


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
    later = model.regress(model.encode(x, present), x, hidden, sex)
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
    assert model.regress(codes, x, present, torch.tensor([0, 1])).shape == (2,)
