"""The front end: what it keeps, what it fills, and that it knows only its training people."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from hpc_brainage.errors import ModelError
from hpc_brainage.model.front_end import FrontEnd, fit_front_end

NAMES = tuple(f"region {i}" for i in range(12))


def table(people: int = 60, width: int = 12, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (
        draw.normal(size=(people, 4)) @ draw.normal(size=(4, width)) + draw.normal(size=(people, width))
    ) * 50


def fit(x: np.ndarray, names: tuple[str, ...] = NAMES, components: int = 5) -> FrontEnd:
    return fit_front_end(x, names, components=components, clip_sd=5.0, max_missing=0.2)


@pytest.mark.parametrize(("people", "width"), [(60, 12), (10, 40)])
def test_the_projection_is_principal_component_analysis_up_to_one_scale(people: int, width: int) -> None:
    x = table(people, width)
    front_end = fit(x, tuple(map(str, range(width))))
    standard = (x - x.mean(0)) / x.std(0)
    expected = PCA(5, svd_solver="full").fit_transform(standard)
    scores = front_end(torch.from_numpy(x).float()).double().numpy()
    signs = np.sign((scores * expected).sum(0))
    scale = np.sqrt((expected[:, 0] ** 2).mean())
    np.testing.assert_allclose(scores, expected * signs / scale, atol=2e-5)
    assert (scores[:, 0] ** 2).mean() == pytest.approx(1.0, abs=1e-4)


def test_leading_components_keep_their_larger_variance() -> None:
    scores = fit(table())(torch.from_numpy(table()).float())
    variance = scores.var(dim=0)
    assert (variance[:-1] >= variance[1:]).all()
    assert variance[0] > 2 * variance[-1]


def test_missing_features_take_the_training_median() -> None:
    x = table()
    front_end = fit(x)
    hole, filled = x[:1].copy(), x[:1].copy()
    hole[0, 3] = np.nan
    filled[0, 3] = np.median(x[:, 3])
    torch.testing.assert_close(
        front_end(torch.from_numpy(hole).float()), front_end(torch.from_numpy(filled).float())
    )


def test_sparse_and_constant_features_are_left_out_and_the_names_say_so() -> None:
    x = table()
    x[:20, 2] = np.nan
    x[:, 7] = 4.0
    assert fit(x).features == tuple(name for i, name in enumerate(NAMES) if i not in (2, 7))


def test_a_far_outlier_is_clipped() -> None:
    front_end = fit(table(), components=0)
    wild = torch.from_numpy(table()[:1]).float()
    wild[0, 0] = 1e9
    assert float(front_end(wild).max()) <= 5.1


def test_directions_without_variance_are_left_out() -> None:
    x = np.repeat(table(14, 40), 2, axis=0)
    front_end = fit(x, tuple(map(str, range(40))), components=27)
    assert front_end.components == 13
    basis = front_end.basis_FP.double()
    torch.testing.assert_close(basis.T @ basis, torch.eye(13, dtype=torch.float64), atol=1e-5, rtol=0)


def test_no_feature_left_is_an_error_that_says_what_was_expected() -> None:
    with pytest.raises(ModelError, match="no usable feature"):
        fit(np.full((10, 12), 3.0))
    with pytest.raises(ModelError, match="no usable feature"):
        fit(np.full((10, 12), np.nan))


def test_a_fit_repeats_bit_for_bit() -> None:
    one, two = fit(table()), fit(table())
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
