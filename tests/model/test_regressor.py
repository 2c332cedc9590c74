"""What the regressor says, and how sex acts inside it."""

from __future__ import annotations

import pytest
import torch

from hpc_brainage.model.regressor import (
    BIN_WIDTH,
    BINS_EACH_SIDE,
    Regressor,
    age_bins,
    age_estimate,
    age_outputs,
)

B, WIDTH = 9, 5


def made(sex: str, outputs: int = 1) -> Regressor:
    torch.manual_seed(0)
    return Regressor(WIDTH, (8, 6), 0.0, sex, outputs).double()


def people() -> tuple[torch.Tensor, torch.Tensor]:
    r = torch.randn(B, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return r, torch.arange(B) % 3 - 1


def test_film_changes_nothing_at_the_start() -> None:
    r, sex = people()
    plain, film = made("none"), made("film")
    film.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(r, sex), film(r, sex))


def test_film_scales_and_shifts_each_hidden_layer_and_leaves_the_unknown_alone() -> None:
    r, sex = people()
    plain, film = made("none"), made("film")
    film.load_state_dict(plain.state_dict(), strict=False)
    torch.manual_seed(2)
    for layer in film.film:
        torch.nn.init.normal_(layer.weight)
    out, unknown = film(r, sex), sex < 0
    torch.testing.assert_close(out[unknown], plain(r, sex)[unknown], rtol=1e-14, atol=0)
    assert not torch.isclose(out[~unknown], plain(r, sex)[~unknown]).any()
    h = r
    for number, layer in enumerate(film.film):
        h = film.trunk[4 * number + 1](film.trunk[4 * number](h))
        for row in range(B):
            if sex[row] >= 0:
                scale, shift = layer.weight[:, sex[row]].chunk(2)
                h[row] = h[row] * (1 + scale) + shift
        h = torch.nn.functional.gelu(h)
    torch.testing.assert_close(out, film.out(h), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("outputs", [1, 2])
def test_each_sex_has_its_own_head_and_an_unknown_sex_the_mean_of_both(outputs: int) -> None:
    r, sex = people()
    model = made("heads", outputs)
    female, male = (model(r, torch.full_like(sex, number)) for number in (0, 1))
    out = model(r, sex)
    assert out.shape == (B, outputs)
    torch.testing.assert_close(out[sex == 0], female[sex == 0])
    torch.testing.assert_close(out[sex == 1], male[sex == 1])
    torch.testing.assert_close(out[sex < 0], (0.5 * (female + male))[sex < 0])
    assert not torch.isclose(female, male).any()


def test_a_distribution_over_bins_gives_its_mean_and_its_variance() -> None:
    logits = torch.randn(B, age_outputs("soft"), generator=torch.Generator().manual_seed(1)).double()
    found, centres = age_estimate(logits, "soft"), age_bins(logits)
    assert float(centres.max()) == pytest.approx(BINS_EACH_SIDE * BIN_WIDTH)
    share = torch.softmax(logits, 1)
    mean = (share * centres).sum(1)
    torch.testing.assert_close(found.mean, mean)
    assert found.log_variance is not None
    variance = (share * centres**2).sum(1) - mean**2
    torch.testing.assert_close(found.log_variance.exp(), variance)
    sure = torch.full((1, age_outputs("soft")), -1e4)
    sure[0, 75] = 1e4
    certain = age_estimate(sure, "soft")
    assert certain.log_variance is not None
    assert torch.isfinite(certain.log_variance).all()
    torch.testing.assert_close(certain.mean, age_bins(sure)[75:76])


def test_a_predicted_variance_is_kept_within_bounds() -> None:
    out = torch.tensor([[0.3, 100.0], [0.1, -100.0], [0.2, 0.5]])
    found = age_estimate(out, "nll")
    assert torch.equal(found.mean, out[:, 0])
    assert found.log_variance is not None
    assert found.log_variance.tolist() == [8.0, -8.0, 0.5]
    assert age_estimate(out[:, :1], "l1").log_variance is None
