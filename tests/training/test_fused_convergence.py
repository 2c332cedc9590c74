"""Training with fused losses goes where training with their definitions goes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted_store

from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.conversion.convert import convert
from hpc_brainage.losses import multi_mse_compiled
from hpc_brainage.losses.backends import Wish, using
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.folds import batches, epoch_order
from hpc_brainage.training.objective import Batch, Objective, step_counts
from hpc_brainage.training.optimizer import adamw, cosine, decayed
from hpc_brainage.training.preparation import network_inputs, new_member

STEPS = 200
SEED = 11
RECIPE = Path(__file__).parents[2] / "configs" / "abide-multimodal.toml"
SMOOTH = "loss.age_form=mse"
"""The absolute error's gradient jumps where an age is met, so that rounding alone, as by the order of the
scans in a sum, takes two runs further and further apart. The squared error's does not."""
SMALL = (
    "smri.components=12", "fmri.components=8", "smri.hidden=[16]", "fmri.hidden=[16]", "model.shared=4",
    "model.distinct=3", "training.batch_size=40", "loss.translation=0.5", SMOOTH,
)  # fmt: skip

Run = tuple[list[float], dict[str, torch.Tensor]]


def trained(
    data: TrainingData, config: RunConfig, form: Wish, steps: int = STEPS, turned: bool = False
) -> Run:
    """The loss of each step, and the parameters after the last; `turned` reverses the order in batches."""
    rows = np.arange(len(data.scans))
    torch.manual_seed(SEED)
    member = new_member(data, rows, config)
    x, present = network_inputs(member, data, torch.device("cpu"))
    objective = Objective(member.network, config)
    optimizer = adamw(dict(objective.named_parameters()), decayed(objective), config.training)
    age, sex = member.age_scale.to_scale(torch.from_numpy(data.age)), torch.from_numpy(data.sex)
    groups = np.zeros(len(rows), dtype=np.int64)
    losses: list[float] = []

    def all_batches() -> Iterator[torch.Tensor]:
        for epoch in range(steps):
            for batch in batches(rows[epoch_order(groups, SEED, epoch)], config.training.batch_size):
                yield torch.from_numpy(batch[::-1].copy() if turned else batch)

    with using(form):
        for step, own in zip(range(steps), all_batches(), strict=False):
            seen = {role: mask[own] for role, mask in present.items()}
            counts = {name: int(n) for name, n in step_counts(seen, sex[own]).items()}
            inputs = {role: torch.as_tensor(value[own]) for role, value in x.items()}  # type: ignore[index]
            for group in optimizer.param_groups:
                group["lr"] = config.training.learning_rate * cosine(step, steps)
            optimizer.zero_grad()
            batch = Batch(inputs, seen, sex[own], age[own], own, counts, SEED, step, step / steps)
            loss, _ = objective(batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses, {name: value.detach() for name, value in objective.named_parameters()}


def fused_forms() -> list[Wish]:
    return ["tiled"] if multi_mse_compiled.lacks() else ["tiled", "compiled"]


def apart(one: Run, other: Run) -> tuple[float, float]:
    """How far two runs are apart: their curves of the loss, and their final parameters, relative."""
    curves = np.array(one[0]), np.array(other[0])
    ends = [torch.cat([value.flatten() for value in run[1].values()]) for run in (one, other)]
    return (
        float(np.abs(curves[0] / curves[1] - 1).max()),
        float((ends[0] - ends[1]).norm() / ends[1].norm()),
    )


def assert_same_training(one: Run, other: Run) -> None:
    curves, parameters = apart(one, other)
    assert curves <= 1e-4
    assert parameters <= 1e-4


def test_fused_losses_train_what_their_definitions_train(planted: TrainingData) -> None:
    config = load_config(None, SMALL)
    defined = trained(planted, config, "reference")
    for form in fused_forms():
        assert_same_training(trained(planted, config, form), defined)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_train_what_the_definitions_train(tmp_path: Path) -> None:
    """A few steps: the interpreter takes its time, and has to be asked for before Triton is imported."""
    tests = str(Path(__file__).parents[1])
    known = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join((tests, str(Path(__file__).parent)))}
    words = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **known})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.real
def test_fused_losses_train_on_real_people_what_their_definitions_train(real_people: TrainingData) -> None:
    config = load_config(RECIPE, [SMOOTH])
    defined = trained(real_people, config, "reference")
    for form in fused_forms():
        assert_same_training(trained(real_people, config, form), defined)
    assert np.mean(defined[0][-20:]) < 0.6 * np.mean(defined[0][:5]), "they did learn"


@pytest.mark.real
def test_with_absolute_errors_fused_losses_differ_as_little_as_the_order_of_the_scans_makes_them(
    real_people: TrainingData,
) -> None:
    config = load_config(RECIPE)
    defined = trained(real_people, config, "reference")
    fused = apart(trained(real_people, config, fused_forms()[-1]), defined)
    turned = apart(trained(real_people, config, "reference", turned=True), defined)
    assert max(fused) < 1e-3
    # Each is one draw of what rounding grows to over the steps, on this processor and with as many threads:
    # of one order of magnitude, neither always the smaller.
    assert fused[0] < 10 * turned[0]
    assert fused[1] < 10 * turned[1]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return load_training_data(
        Store.open(planted_store(tmp_path_factory.mktemp("planted"))), load_config(None, SMALL)
    )


@pytest.fixture(scope="module")
def real_people(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = real_data / "abide1"
    cohort = open_cohort(
        folder / "participants.csv",
        reading=Reading(columns=ColumnMap(id="file_id")),
        add=[
            parse_added(f"smri={folder}/smri_freesurfer6.csv.gz"),
            parse_added(f"fmri={folder}/fmri_fc_ho111_fisherz.npz"),
        ],
    )
    store = convert(cohort, tmp_path_factory.mktemp("real") / "abide1.zarr").store_path
    return load_training_data(Store.open(store), load_config(RECIPE))


if __name__ == "__main__":
    config = load_config(None, SMALL)
    data = load_training_data(Store.open(planted_store(Path(sys.argv[1]))), config)
    assert_same_training(*(trained(data, config, form, steps=6) for form in ("triton", "reference")))
