"""Every way to set up the model and its loss: it builds, steps, and means what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch
from stacked_batches import stacked_fields
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from hpc_brainage.config import LossConfig, ModelConfig, load_config
from hpc_brainage.errors import TrainingError
from hpc_brainage.model.noise import Draws
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.objective import Batch, Objective, step_counts

B = 12
BRANCHES = {"smri": BranchSpec("mlp", (8,), components=6), "fmri": BranchSpec("mlp", (8,), components=5)}


def options(section: type, name: str) -> tuple[str, ...]:
    return get_args(section.model_fields[name].annotation)  # type: ignore[attr-defined]


SEXES = options(ModelConfig, "sex")
PRIORS = list(product(options(ModelConfig, "prior_shared"), options(ModelConfig, "prior_distinct")))
FORMS = options(LossConfig, "age_form")
MISSING = options(ModelConfig, "missing")


def objective(*settings: str, single_pass: bool = True, dropout: float = 0.0) -> Objective:
    """A small one in double precision, none of whose weights is zero at the start."""
    sizes = ["model.shared=3", "model.distinct=2", "model.discriminator=[4]", "model.regressor=[6]"]
    config = load_config(None, [*sizes, f"model.dropout={dropout}", *settings])
    torch.manual_seed(0)
    made = Objective(
        SAAVAE(BRANCHES, config.model, config.loss.age_form), config, single_pass=single_pass
    ).double()
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def batch(seed: int = 3, sex: torch.Tensor | None = None) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    x = {
        role: torch.randn(B, spec.components, generator=draw, dtype=torch.float64)
        for role, spec in BRANCHES.items()
    }
    present = {"smri": torch.arange(B) != 0, "fmri": torch.arange(B) % 3 != 1}
    sex = torch.arange(B) % 3 - 1 if sex is None else sex
    age = torch.randn(B, generator=draw, dtype=torch.float64)
    return Batch(x, present, sex, age, torch.arange(B), step_counts(present, sex), 1, 7, 1.0)


def gradients(made: Objective, given: Batch) -> dict[str, torch.Tensor]:
    loss, _ = made(given)
    names, parameters = zip(*made.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


def assert_it_steps(sex: str, shared: str, distinct: str, form: str, missing: str) -> None:
    made = objective(
        f"model.sex={sex}", f"model.prior_shared={shared}", f"model.prior_distinct={distinct}",
        f"loss.age_form={form}", f"model.missing={missing}", "loss.translation=0.5",
        "loss.free_bits=0.05", dropout=0.2,
    )  # fmt: skip
    loss, terms = made(batch())
    loss.backward()
    where = (sex, shared, distinct, form, missing)
    assert torch.isfinite(loss), where
    assert all(torch.isfinite(term) for term in terms.values()), where
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None), where
    assert made.model.regressor.out.weight.grad.any(), where


@pytest.mark.parametrize("sex", SEXES)
def test_every_pair_of_settings_steps_with_finite_gradients(sex: str) -> None:
    """Any two of sex mode, priors, age loss and missing modality meet in some case over all sex modes."""
    shift = SEXES.index(sex)
    for number, (shared, distinct) in enumerate(PRIORS):
        form = FORMS[(number + shift) % len(FORMS)]
        assert_it_steps(sex, shared, distinct, form, MISSING[(number // len(FORMS) + shift // 2) % 2])


@pytest.mark.slow
@pytest.mark.parametrize("sex", SEXES)
def test_every_combination_steps_with_finite_gradients(sex: str) -> None:
    for (shared, distinct), form, missing in product(PRIORS, FORMS, MISSING):
        assert_it_steps(sex, shared, distinct, form, missing)


VARIED = [
    ("model.sex=film", "model.missing=poe", "model.prior_shared=both", "loss.age_form=nll"),
    ("model.sex=heads", "model.prior_distinct=adversarial", "loss.translation=0.5", "loss.age_form=soft"),
    ("model.sex=concat+decoder", "model.prior_shared=none", "loss.free_bits=0.1", "loss.age_form=huber"),
    ("model.sex=adversarial", "model.prior_distinct=both", "loss.ratio_kind=log", "loss.ratio_on=z"),
    ("model.sex=multitask", "model.missing=poe", "model.prior_shared=kl", "model.sample=always"),
    ("model.sex=embed", "training.modality_training=none", "loss.ratio_kind=bounded"),
]


@pytest.mark.parametrize("settings", VARIED, ids=lambda settings: settings[0].removeprefix("model."))
def test_stacked_members_learn_what_each_learns_alone(settings: tuple[str, ...]) -> None:
    members, given = [], []
    for seed in range(3):
        made = objective(*settings, single_pass=False, dropout=0.3)
        torch.manual_seed(seed)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        own = batch(seed)
        present = own.present
        if seed == 2:
            present = {**present, "fmri": torch.zeros(B, dtype=torch.bool)}
        sex = torch.roll(own.sex, seed)
        members.append(made)
        given.append(
            replace(
                own, sex=sex, present=present, counts=step_counts(present, sex), seed=torch.tensor(seed)
            )
        )
    stacked = stacked_fields(given)

    def loss(own: dict[str, torch.Tensor], varied: dict) -> torch.Tensor:
        return functional_call(members[0], own, (replace(given[0], **varied),))[0]

    parameters, _ = stack_module_state(members)
    together, losses = vmap(grad_and_value(loss))(parameters, stacked)
    for place, (member, own) in enumerate(zip(members, given, strict=True)):
        torch.testing.assert_close(losses[place], member(own)[0].detach(), rtol=1e-12, atol=0)
        for name, gradient in gradients(member, own).items():
            torch.testing.assert_close(together[name][place], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("settings", VARIED, ids=lambda settings: settings[0].removeprefix("model."))
def test_halves_of_a_step_add_up_to_the_whole(settings: tuple[str, ...]) -> None:
    """With dropout: what several processes compute of one step is what one computes."""
    made, whole = objective(*settings, dropout=0.3), batch()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    total: dict[str, torch.Tensor] = {}
    for rows in (order[:5], order[5:]):
        part = replace(
            whole,
            x={role: x[rows] for role, x in whole.x.items()},
            present={role: mask[rows] for role, mask in whole.present.items()},
            sex=whole.sex[rows],
            age=whole.age[rows],
            scan=whole.scan[rows],
        )
        for name, gradient in gradients(made, part).items():
            total[name] = total.get(name, 0) + gradient
    for name, expected in gradients(made, whole).items():
        torch.testing.assert_close(total[name], expected, rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.parametrize("settings", VARIED, ids=lambda settings: settings[0].removeprefix("model."))
def test_one_evaluation_of_each_discriminator_and_two_give_the_same_gradients(
    settings: tuple[str, ...],
) -> None:
    once, twice = objective(*settings, dropout=0.3), objective(*settings, single_pass=False, dropout=0.3)
    second = gradients(twice, batch())
    for name, gradient in gradients(once, batch()).items():
        torch.testing.assert_close(gradient, second[name], rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("settings", VARIED, ids=lambda settings: settings[0].removeprefix("model."))
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e300])
def test_absent_rows_change_no_bit(settings: tuple[str, ...], poison: float) -> None:
    clean, dirty = batch(), batch()
    for role, mask in dirty.present.items():
        dirty.x[role][~mask] = poison
    made = objective(*settings, dropout=0.3)
    assert torch.equal(made(clean)[0], made(dirty)[0])
    expected = gradients(made, clean)
    for name, gradient in gradients(made, dirty).items():
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("settings", VARIED, ids=lambda settings: settings[0].removeprefix("model."))
def test_scans_that_fill_up_a_batch_count_nowhere(settings: tuple[str, ...]) -> None:
    made, whole = objective(*settings, dropout=0.3), batch()
    filled = replace(
        whole,
        x={role: torch.cat([x, torch.full_like(x[:2], torch.nan)]) for role, x in whole.x.items()},
        present={
            role: torch.cat([m, torch.zeros(2, dtype=torch.bool)]) for role, m in whole.present.items()
        },
        sex=torch.cat([whole.sex, torch.tensor([0, 1])]),
        age=torch.cat([whole.age, whole.age[:2]]),
        scan=torch.cat([whole.scan, whole.scan[:2]]),
    )
    filled = replace(filled, counts=step_counts(filled.present, filled.sex))
    assert dict(filled.counts) == dict(whole.counts)
    expected = gradients(made, whole)
    for name, gradient in gradients(made, filled).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-15, msg=name)


# -- what weights and settings switch off ------------------------------------------------------------


def test_a_term_without_weight_is_not_computed_and_leaves_its_networks_alone() -> None:
    off = [f"loss.{name}=0" for name in ("reconstruction", "cross", "kl", "ratio", "adversarial", "sex")]
    for sex in ("multitask", "adversarial"):
        made = objective(*off, f"model.sex={sex}", "model.sample=never")
        loss, terms = made(batch())
        loss.backward()
        assert set(terms) == {"age"}
        assert not any(name.startswith(("discriminators", "sex")) for name, _ in made.named_parameters())
        for name, parameter in made.named_parameters():
            if "decoders" in name or "log_variance" in name:
                assert parameter.grad is None or not parameter.grad.any(), name


@pytest.mark.parametrize("name", ["reconstruction", "cross", "translation", "kl", "ratio"])
def test_a_term_adds_its_weight_times_its_own_gradient_and_none_without_weight(name: str) -> None:
    others = [n for n in ("reconstruction", "cross", "translation", "kl", "ratio") if n != name]
    rest = [f"loss.{n}=0" for n in others] + ["loss.adversarial=0"]
    weights = {}
    for weight in (0.0, 0.25, 0.5):
        weights[weight] = gradients(objective(*rest, f"loss.{name}={weight}"), batch())
    changed = False
    for parameter, none in weights[0.0].items():
        quarter, half = weights[0.25][parameter] - none, weights[0.5][parameter] - none
        torch.testing.assert_close(half, 2 * quarter, rtol=1e-9, atol=1e-12)
        changed = changed or bool(half.any())
    assert changed


@pytest.mark.parametrize(
    ("shared", "distinct", "sample", "draws"),
    [
        ("adversarial", "kl", "auto", (True, True)),
        ("adversarial", "adversarial", "auto", (False, False)),
        ("kl", "kl", "auto", (True, True)),
        ("none", "none", "auto", (False, False)),
        ("none", "kl", "auto", (False, True)),
        ("kl", "none", "auto", (True, False)),
        ("both", "adversarial", "auto", (True, True)),
        ("adversarial", "none", "auto", (False, False)),
        ("adversarial", "kl", "never", (False, False)),
        ("none", "none", "always", (True, True)),
    ],
)
def test_codes_are_drawn_where_something_holds_their_spread(
    shared: str, distinct: str, sample: str, draws: tuple[bool, bool]
) -> None:
    made = objective(
        f"model.prior_shared={shared}", f"model.prior_distinct={distinct}", f"model.sample={sample}"
    )
    given = batch()
    for code in made.model.encode(given.x, given.present, Draws(given.scan, 1, 7)).values():
        mean = replace(code, z=code.mu)
        assert torch.equal(code.shared, mean.shared) is not draws[0]
        assert torch.equal(code.distinct, mean.distinct) is not draws[1]


def test_a_ratio_of_sums_is_refused_for_several_processes() -> None:
    made = objective("loss.ratio_kind=batch_sq")
    assert torch.isfinite(made(batch())[0])
    with pytest.raises(TrainingError, match="several processes"):
        made(replace(batch(), processes=2))


# -- sex ---------------------------------------------------------------------------------------------


def changed_terms(made: Objective, change: Callable[[torch.Tensor], torch.Tensor]) -> set[str]:
    sex = torch.arange(B) % 2
    before, after = made(batch(sex=sex))[1], made(batch(sex=change(sex)))[1]
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("mode", "terms"),
    [
        ("none", set()),
        ("concat", {"age"}),
        ("embed", {"age"}),
        ("film", {"age"}),
        ("heads", {"age"}),
        ("concat+decoder", {"age", "reconstruction", "cross", "translation"}),
        ("adversarial", {"sex"}),
        ("multitask", {"sex"}),
    ],
)
def test_sex_reaches_what_its_mode_declares_and_nothing_else(mode: str, terms: set[str]) -> None:
    made = objective(f"model.sex={mode}", "loss.translation=1", "training.sex_dropout=0.0")
    assert changed_terms(made, lambda sex: 1 - sex) == terms
    assert changed_terms(made, lambda sex: torch.full_like(sex, -1)) == terms


def test_hidden_sexes_are_hidden_from_the_model_and_not_from_the_classifier() -> None:
    shown, hidden = (
        objective("model.sex=multitask", f"training.sex_dropout={chance}") for chance in (0.0, 0.999)
    )
    assert torch.equal(shown(batch())[0], hidden(batch())[0])
    shown, hidden = (
        objective("model.sex=concat", f"training.sex_dropout={chance}") for chance in (0.0, 0.999999)
    )
    nobody = torch.full((B,), -1)
    assert torch.equal(hidden(batch())[1]["age"], shown(batch(sex=nobody))[1]["age"])


def test_the_sex_discriminator_learns_and_the_encoders_unlearn() -> None:
    """The discriminator at full rate, the encoders against it at the term's weight."""
    only = [f"loss.{name}=0" for name in ("reconstruction", "cross", "kl", "ratio", "adversarial")]
    made, plain = objective(*only, "model.sex=adversarial"), objective(*only, "model.sex=none")
    plain.load_state_dict(made.state_dict(), strict=False)
    base = gradients(plain, batch())
    half, whole = (
        gradients(objective(*only, "model.sex=adversarial", f"loss.sex={weight}"), batch())
        for weight in (0.5, 1.0)
    )
    given = batch()
    told = torch.zeros((), dtype=torch.float64)
    draws = Draws(given.scan, given.seed, given.step)
    for role, code in made.model.encode(given.x, given.present, draws).items():
        known = given.present[role] & (given.sex >= 0)
        male = torch.sigmoid(made.discriminators["sex"](code.shared))
        right = torch.where(given.sex == 1, male, 1 - male)
        told = told - torch.log(right)[known].mean() / 2
    own = torch.autograd.grad(told, list(made.parameters()), allow_unused=True)
    for (name, parameter), gradient in zip(made.named_parameters(), own, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        if name.startswith("discriminators"):
            for found in (half, whole):
                torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-14)
        else:
            for weight, found in ((0.5, half), (1.0, whole)):
                torch.testing.assert_close(
                    found[name] - base[name], -weight * gradient, rtol=1e-8, atol=1e-13, msg=name
                )


# -- symmetry ----------------------------------------------------------------------------------------


def test_swapping_the_modalities_with_their_networks_leaves_every_term() -> None:
    """Codes at their means: draws belong to a role, not to a network."""
    settings = ("model.sample=never", "model.prior_shared=kl", "loss.translation=0.5", "model.sex=film")
    made, swap = objective(*settings), {"smri": "fmri", "fmri": "smri"}
    branches = {role: BRANCHES[swap[role]] for role in BRANCHES}
    other = Objective(SAAVAE(branches, made.config.model), made.config).double()
    state = {
        ".".join(swap.get(part, part) for part in name.split(".")): value.clone()
        for name, value in made.state_dict().items()
    }
    order = [*range(5, 10), *range(5), 11, 10]  # codes of one role, of the other, presence
    first = "model.regressor.trunk.0.weight"
    state[first] = state[first][:, order]
    other.load_state_dict(state)
    given = batch()
    present = {swap[role]: mask for role, mask in given.present.items()}
    turned = replace(
        given,
        x={swap[role]: x for role, x in given.x.items()},
        present={role: present[role] for role in BRANCHES},
        counts=step_counts(present, given.sex),
    )
    before, after = made(given), other(turned)
    torch.testing.assert_close(before[0], after[0], rtol=1e-12, atol=0)
    assert {"age", "reconstruction", "cross", "translation", "kl", "ratio"} == set(before[1])
    for name, term in before[1].items():
        torch.testing.assert_close(term, after[1][name], rtol=1e-12, atol=0, msg=name)
