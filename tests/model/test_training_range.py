"""What training people looked like: ranges, clouds of codes, and back from a bundle's arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_brainage.model.fingerprint import take_fingerprints
from hpc_brainage.model.training_range import TrainingRange


def planted() -> TrainingRange:
    draw = np.random.default_rng(0)
    names = [f"region{i}" for i in range(30)]
    prints = take_fingerprints(draw.normal(size=(20, 30)), names, np.arange(20) % 2, "s")
    assert prints is not None
    return TrainingRange(
        lowest={"smri": torch.tensor([[0.0, -1.0, 2.0], [0.5, -2.0, 1.0]])},
        highest={"smri": torch.tensor([[5.0, 1.0, 3.0], [6.0, 0.5, 3.0]])},
        code_mean={"smri": torch.tensor([[0.0, 0.0], [1.0, 2.0]])},
        code_whitening={"smri": torch.stack([torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 0.5]])])},
        fingerprints={"smri": prints},
    )


@pytest.mark.parametrize(
    ("fold", "expected"),
    [(0, [0, 1, 2]), (1, [1, 0, 1]), (None, [0, 0, 1])],
)
def test_features_beyond_what_was_seen_are_counted_and_missing_ones_are_not(
    fold: int | None, expected: list[int]
) -> None:
    x = torch.tensor([[0.2, 0.0, 2.5], [1.0, -1.5, torch.nan], [9.0, torch.nan, 1.5]])
    assert planted().beyond("smri", fold, x).tolist() == expected


def test_the_distance_is_mahalanobis_s_over_the_root_of_the_dimensions() -> None:
    code = torch.tensor([[1.5, 1.0], [1.0, 2.0]])
    L = planted().code_whitening["smri"][1].double()
    away = (code - torch.tensor([1.0, 2.0])).double()
    squared = torch.einsum("bi,ij,bj->b", away, L @ L.T, away)
    found = planted().distance("smri", 1, code)
    torch.testing.assert_close(found.double(), (squared / 2).sqrt())
    assert float(found[1]) == 0


def test_all_arrays_come_back_by_their_names() -> None:
    made = planted()
    again = TrainingRange.from_arrays(made.arrays())
    for name, array in made.arrays().items():
        assert torch.equal(again.arrays()[name], array), name
    assert set(again.arrays()) == set(made.arrays())
    with pytest.raises(TypeError):
        TrainingRange.from_arrays({"unknown.smri": torch.zeros(2)})
