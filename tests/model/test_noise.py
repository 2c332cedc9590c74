"""The generators' known answers and moments, and that they know nothing of the batch."""

from __future__ import annotations

import math

import pytest
import torch

from hpc_brainage.modality import ROLES
from hpc_brainage.model.noise import LAYERS, Draws, Stream, normal, philox, uniform

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


def test_several_streams_at_once_give_what_each_gives_alone() -> None:
    draws = Draws(torch.arange(6), 3, 5)
    together = draws.normals(7, [0, 1, 4])
    for place, stream in enumerate((0, 1, 4)):
        assert torch.equal(together[place], normal(torch.arange(6), 7, seed=3, step=5, stream=stream))
        assert torch.equal(together[place], draws.normal(7, stream))


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


def test_a_seed_may_be_a_tensor_and_may_differ_between_members() -> None:
    scans = torch.arange(7)
    seeds = torch.tensor([3, 4, 2**40 + 5])
    together = torch.func.vmap(lambda seed: normal(scans, 5, seed=seed, step=2, stream=1))(seeds)
    for place, seed in enumerate(seeds.tolist()):
        assert torch.equal(together[place], normal(scans, 5, seed=seed, step=2, stream=1))


# -- dropout ---------------------------------------------------------------------------------------


def kept(draws: Draws, width: int, probability: float, stream: int = 300) -> torch.Tensor:
    return draws.dropout(torch.ones(len(draws.scan), width), probability, stream) != 0


def splitmix(state: int) -> int:
    """The output function of splitmix64, in unbounded integers."""
    limit = (1 << 64) - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & limit
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & limit
    return state ^ (state >> 31)


@pytest.mark.parametrize("seed", [11, 2**40 + 3, torch.tensor(11)])
@pytest.mark.parametrize("probability", [0.2, 0.5, 1e-4, 0.999999])
def test_dropout_is_that_of_unbounded_integers(seed: int | torch.Tensor, probability: float) -> None:
    scans, width, stream, step = torch.tensor([0, 5, 2**33 + 1]), 11, 517, 9
    found = kept(Draws(scans, seed, step), width, probability, stream)
    threshold = min(round(probability * 65536), 65535)
    for row, scan in enumerate(scans.tolist()):
        counter = (scan & 0xFFFFFFFF, scan >> 32, step, Stream.DROPOUT << 24)
        words = [int(w) for w in philox(tuple(torch.tensor([c]) for c in counter), int(seed))]
        word = words[0] << 32 | words[1]
        for unit in range(width):
            number = (stream << 20) + unit // 4 + 1
            bits = splitmix((word + number * 0x9E3779B97F4A7C15) % 2**64) >> 16 * (unit % 4) & 0xFFFF
            assert bool(found[row, unit]) is (bits >= threshold)


def test_dropout_keeps_the_mean_exactly_for_the_chance_as_rounded() -> None:
    h = torch.full((1, 64), 3.0, dtype=torch.float64)
    for probability in (0.2, 1 / 3, 0.9):
        dropped = Draws(torch.tensor([1]), 0, 0).dropout(h, probability, 300)
        realised = round(probability * 65536) / 65536
        torch.testing.assert_close(
            dropped[dropped != 0].unique(), torch.tensor([3 / (1 - realised)]).double()
        )
    assert torch.equal(Draws(torch.tensor([1]), 0, 0).dropout(h, 0.0, 300), h)


@pytest.mark.parametrize("probability", [0.05, 0.2, 0.5])
def test_every_unit_is_dropped_as_often_as_asked(probability: float) -> None:
    scans = 20_000
    dropped = ~kept(Draws(torch.arange(scans), 7, 3), 66, probability)
    spread = math.sqrt(probability * (1 - probability) / scans)
    assert float(dropped.float().mean()) == pytest.approx(probability, abs=4 * spread / math.sqrt(66))
    assert float((dropped.float().mean(dim=0) - probability).abs().max()) < 4.5 * spread


def test_units_scans_steps_streams_and_seeds_are_dropped_independently() -> None:
    scans, width = 4000, 64
    base = kept(Draws(torch.arange(scans), 7, 3), width, 0.5).double() - 0.5
    others = {
        "next unit": (base[:, 1:], base[:, :-1]),
        "unit of the next group": (base[:, 4:], base[:, :-4]),
        "next scan": (base[1:], base[:-1]),
        "next step": (base, kept(Draws(torch.arange(scans), 7, 4), width, 0.5).double() - 0.5),
        "next stream": (base, kept(Draws(torch.arange(scans), 7, 3), width, 0.5, 301).double() - 0.5),
        "next seed": (base, kept(Draws(torch.arange(scans), 8, 3), width, 0.5).double() - 0.5),
    }
    for name, (one, other) in others.items():
        correlation = 4 * float((one * other).mean())
        assert abs(correlation) < 4.5 / math.sqrt(one.numel()), name
    together = torch.corrcoef(base.T) - torch.eye(width)
    assert float(together.abs().max()) < 5.5 / math.sqrt(scans)
    shared = kept(Draws(torch.arange(scans), 7, 3), width, 0.5)
    assert len(torch.unique(shared, dim=0)) == scans, "no two scans lose the same units"


def test_dropout_does_not_depend_on_the_place_in_a_batch() -> None:
    scans = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    together = kept(Draws(scans, 3, 17), 9, 0.5)
    for place, scan in enumerate(scans):
        assert torch.equal(together[place], kept(Draws(scan[None], 3, 17), 9, 0.5)[0])


def test_no_two_purposes_share_a_stream() -> None:
    roles = len(ROLES)
    by_role = (Stream.CODE, Stream.PRIOR_SHARED, Stream.PRIOR_DISTINCT)
    philox_streams = [first + role for first in by_role for role in range(roles)]
    philox_streams += [Stream.SEX, Stream.MODALITY, Stream.JOINT, Stream.DROPOUT]
    assert len(set(philox_streams)) == len(philox_streams)
    assert max(philox_streams) < 256 == Stream.ENCODER
    assert Stream.ENCODER + roles * LAYERS <= Stream.REGRESSOR
    assert max(Stream) == Stream.REGRESSOR, "nothing stands behind the streams of its subsets"
