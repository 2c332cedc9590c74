"""The fused reconstruction losses within the objective and the engine: nothing changes but the time."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import launch

from hpc_brainage.config import load_config
from hpc_brainage.losses import backends, multi_mse_compiled
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.distributed import join_processes
from hpc_brainage.training.engine import Engine
from hpc_brainage.training.objective import Batch, Objective, step_counts

B = 10
TABLES = {
    "smri": BranchSpec("mlp", (12, 8), components=9),
    "fmri": BranchSpec("mlp", (6,), components=5),
}
VOLUME = {
    "smri": BranchSpec("sfcn", (4, 4), grid=(8, 9, 8), decoder="volume"),
    "fmri": BranchSpec("mlp", (6,), components=5),
}
WIDE = {
    "smri": BranchSpec("mlp", (64,), components=2000),  # 128,000 weights: more than DeepSpeed leaves whole
    "fmri": BranchSpec("mlp", (6,), components=5),
}
STEPS = 4
PLAIN = ("training.weight_decay=0.0", "training.gradient_clipping=0.0")
SETTINGS = ("model.shared=3", "model.distinct=2", "model.dropout=0.2", "loss.translation=0.7")


def objective(branches: dict[str, BranchSpec], *settings: str) -> Objective:
    config = load_config(None, [*SETTINGS, *settings])
    torch.manual_seed(0)
    return Objective(SAAVAE(branches, config.model), config)


def batch(branches: dict[str, BranchSpec], dtype: torch.dtype = torch.float32, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    shapes = {role: spec.grid or (spec.components,) for role, spec in branches.items()}
    x = {role: torch.randn(B, *shape, generator=generator).to(dtype) for role, shape in shapes.items()}
    present = {role: torch.arange(B) % 4 != place for place, role in enumerate(branches)}
    for role, here in present.items():
        x[role][~here] = float("nan")
    sex = torch.arange(B) % 3 - 1
    age = torch.randn(B, generator=generator).to(dtype)
    counts = step_counts(present, sex)
    return Batch(
        x, present, sex, age, torch.arange(B), counts, seed=1, step=step, progress=1.0, processes=3
    )


def learned(form: str, own: Objective, given: Batch) -> tuple[torch.Tensor, dict, dict]:
    own.zero_grad()
    with backends.using(form):  # type: ignore[arg-type]
        loss, terms = own(given)
        loss.backward()
    return (
        loss.detach(),
        terms,
        {name: p.grad.clone() for name, p in own.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("branches", [TABLES, VOLUME], ids=["tables", "volume"])
@pytest.mark.parametrize(
    "settings",
    [(), ("model.sex=concat+decoder",), ("loss.cross=0",), ("loss.reconstruction=0",)],
    ids=lambda settings: settings[0] if settings else "default",
)
def test_tiles_teach_what_the_reference_teaches(branches: dict, settings: tuple[str, ...]) -> None:
    own = objective(branches, *settings).double()
    loss, terms, gradients = learned("tiled", own, batch(branches, torch.float64))
    expected, expected_terms, expected_gradients = learned("reference", own, batch(branches, torch.float64))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert terms.keys() == expected_terms.keys()
    assert not any(term.requires_grad for term in terms.values())
    for name, term in terms.items():
        torch.testing.assert_close(term, expected_terms[name], rtol=1e-12, atol=0, msg=name)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.skipif(bool(multi_mse_compiled.lacks()), reason="no C compiler")
@pytest.mark.parametrize("branches", [TABLES, VOLUME, WIDE], ids=["tables", "volume", "wide"])
def test_the_compiled_pass_teaches_what_the_reference_teaches(branches: dict) -> None:
    own = objective(branches)
    loss, terms, gradients = learned("compiled", own, batch(branches))
    expected, expected_terms, expected_gradients = learned("reference", own, batch(branches))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected_terms[name], rtol=1e-5, atol=1e-7, msg=name)
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
        # Before a norm a bias has no gradient but for rounding.
        assert (gradient - expected).norm() <= 1e-5 * expected.norm() + 1e-6, name


def test_the_terms_are_the_reconstructions_each_by_itself() -> None:
    own = objective(TABLES, "model.dropout=0.0", "model.sample=never").double()
    given, model = batch(TABLES, torch.float64), own.model
    _, terms = own(given)
    codes = model.encode(given.x, given.present)
    expected = dict.fromkeys(("reconstruction", "cross", "translation"), 0.0)
    both = given.present["smri"] & given.present["fmri"]
    for role, other in (("smri", "fmri"), ("fmri", "smri")):
        here, code, x = given.present[role], codes[role], given.x[role]
        of = {
            "reconstruction": (model.decode(role, code.shared, code.distinct), here),
            "cross": (model.decode(role, codes[other].shared, code.distinct), both),
            "translation": (model.impute(role, codes), both),
        }
        for name, (rebuilt, mask) in of.items():
            expected[name] += float((rebuilt - x)[mask].detach().square().mean())
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-12), name


def train(stage: int) -> dict[str, torch.Tensor]:
    """The model after some steps of the engine, on as many processes as there are."""
    here = join_processes("cpu")
    own = objective(WIDE, f"training.zero_stage={stage}", *PLAIN)
    engine = Engine(own, own.config.training, here, 10**9)
    mine = slice(here.rank, None, here.world_size)
    with backends.using("tiled"):
        for step in range(STEPS):
            given = batch(WIDE, step=step)
            part = replace(
                given,
                x={role: x[mine] for role, x in given.x.items()},
                present={role: here[mine] for role, here in given.present.items()},
                sex=given.sex[mine],
                age=given.age[mine],
                scan=given.scan[mine],
                processes=here.world_size,
            )
            engine.step(part)
    state = engine.model_state()
    engine.close()
    return state


@pytest.mark.parametrize(("stage", "world"), [(0, 1), (2, 1), (3, 1), (3, 2)])
def test_the_engine_steps_a_fused_layer_as_plain_torch_does(stage: int, world: int, tmp_path: Path) -> None:
    """At stage 3 the wide layer is sharded, and gathered for the loss that it is a part of."""
    plain = objective(WIDE, *PLAIN)
    rate = plain.config.training.learning_rate
    optimizer = torch.optim.AdamW(plain.parameters(), lr=rate, weight_decay=0.0)
    for step in range(STEPS):
        with backends.using("reference"):
            loss, _ = plain(replace(batch(WIDE, step=step), processes=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if world == 1:
        states = [train(stage)]
    else:
        launch(world, __file__, str(tmp_path), str(stage))
        states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for state in states:
        for name, expected in plain.model.state_dict().items():
            torch.testing.assert_close(state[name], expected, rtol=2e-4, atol=2e-5, msg=name)


if __name__ == "__main__":
    found = train(int(sys.argv[2]))
    torch.save(found, Path(sys.argv[1], f"{join_processes('cpu').rank}.pt"))
