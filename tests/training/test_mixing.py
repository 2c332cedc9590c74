"""Who is mixed with whom in a step, and what comes out."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.model.noise import Draws
from hpc_brainage.training.mixing import mixed, mixing

PEOPLE = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-1, 1)), min_size=1, max_size=40)


def step(people: list[tuple[bool, bool, int]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    smri, fmri, sex = (torch.tensor(column) for column in zip(*people, strict=True))
    return {"smri": smri, "fmri": fmri}, sex


@given(people=PEOPLE, seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=100)
def test_people_are_mixed_with_one_of_their_sex_and_modalities(
    people: list[tuple[bool, bool, int]], seed: int
) -> None:
    present, sex = step(people)
    partner, share = mixing(present, sex, Draws(torch.arange(len(people)), seed, 3), 0.3)
    assert [people[place] for place in partner.tolist()] == people
    assert float(share.min()) >= 0
    assert float(share.max()) <= 0.3
    # In every group all but one take from another, and nobody is taken from twice by others.
    takers = [place for place, other in enumerate(partner.tolist()) if place != other]
    assert len(takers) == len(people) - len(set(people))
    assert len({int(partner[place]) for place in takers}) == len(takers)


@given(people=PEOPLE, seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=50)
def test_the_order_of_a_step_changes_nothing(people: list[tuple[bool, bool, int]], seed: int) -> None:
    present, sex = step(people)
    scan = 7 * torch.arange(len(people))
    partner, share = mixing(present, sex, Draws(scan, seed, 3), 0.5)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(people)))
    shuffled = {role: here[order] for role, here in present.items()}
    again, again_share = mixing(shuffled, sex[order], Draws(scan[order], seed, 3), 0.5)
    assert scan[order][again].tolist() == scan[partner][order].tolist()
    assert again_share.tolist() == share[order].tolist()


def test_another_step_mixes_others() -> None:
    present, sex = step([(True, True, 0)] * 50)
    first, _ = mixing(present, sex, Draws(torch.arange(50), 1, 3), 0.5)
    other, _ = mixing(present, sex, Draws(torch.arange(50), 1, 4), 0.5)
    assert first.tolist() != other.tolist()


def test_shares_are_spread_evenly() -> None:
    present, sex = step([(True, False, 1)] * 4000)
    _, share = mixing(present, sex, Draws(torch.arange(4000), 1, 3), 0.4)
    assert np.abs(np.quantile(share.numpy(), [0.25, 0.5, 0.75]) - [0.1, 0.2, 0.3]).max() < 0.015


def test_a_mix_lies_on_the_line_between_two_and_a_share_of_nothing_is_the_scan_itself() -> None:
    own, other = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)
    share = torch.tensor([0.0, 0.25, 0.5])
    found = mixed(own, other, share)
    torch.testing.assert_close(found[0], own[0], rtol=0, atol=0)
    torch.testing.assert_close(found[1], 0.75 * own[1] + 0.25 * other[1])
    torch.testing.assert_close(found[2], (own[2] + other[2]) / 2)
