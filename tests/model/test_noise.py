"""The generator's known answers, its moments, and that it knows nothing of the batch."""

from __future__ import annotations

import pytest
import torch

from hpc_brainage.model.noise import normal, philox, uniform

# Known-answer test vectors of the Random123 distribution for philox4x32, 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_published_answers(counter: tuple, key: tuple, answer: tuple) -> None:
    words = philox(tuple(torch.tensor([word]) for word in counter), key[0] | key[1] << 32)
    assert tuple(int(word) for word in words) == answer


def test_a_scan_s_noise_does_not_depend_on_the_batch() -> None:
    scans = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    together = normal(scans, 9, seed=3, step=17, stream=1)
    for place, scan in enumerate(scans):
        alone = normal(scan[None], 9, seed=3, step=17, stream=1)
        assert torch.equal(together[place], alone[0])


@pytest.mark.parametrize("other", [{"seed": 4}, {"step": 18}, {"stream": 2}])
def test_seed_step_and_stream_each_give_other_noise(other: dict) -> None:
    base = {"seed": 3, "step": 17, "stream": 1}
    scans = torch.arange(20)
    first, second = normal(scans, 8, **base), normal(scans, 8, **base | other)
    assert not torch.isclose(first, second).any()


def test_the_noise_is_standard_normal() -> None:
    draws = normal(torch.arange(20_000), 16, seed=0, step=0, stream=0)
    assert abs(float(draws.mean())) < 0.01
    assert abs(float(draws.std()) - 1) < 0.01
    assert abs(float((draws**4).mean()) - 3) < 0.06
    correlation = torch.corrcoef(draws.T) - torch.eye(16)
    assert float(correlation.abs().max()) < 0.04


def test_uniform_numbers_stay_inside_the_open_interval() -> None:
    draws = uniform(torch.arange(10_000), 4, seed=1, step=2, stream=3)
    assert float(draws.min()) > 0
    assert float(draws.max()) < 1
