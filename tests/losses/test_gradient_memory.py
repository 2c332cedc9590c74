"""Memory for large gradients: used again, and never while somebody has it."""

from __future__ import annotations

import gc
import importlib.util
import sys

import pytest
import torch

from hpc_brainage.losses import gradient_memory
from hpc_brainage.losses.gradient_memory import free_gradient_memory, gradient_like


def test_large_gradients_use_memory_again_and_never_that_of_a_living_one() -> None:
    free_gradient_memory()
    like = torch.empty(gradient_memory.SMALLEST // 4 + 3)
    first, second = gradient_like(like), gradient_like(like)
    assert first.data_ptr() != second.data_ptr()
    place, view = first.data_ptr(), first[5:].view(torch.int32)
    del first
    gc.collect()
    third = gradient_like(like)
    assert third.data_ptr() != place, "a view keeps the memory"
    del view
    assert gradient_like(like).data_ptr() == place
    kept = gradient_memory.kept_bytes()
    assert kept == 3 * 4 * like.numel()
    free_gradient_memory()
    second.fill_(1)
    third.fill_(2)
    assert bool((second == 1).all()), "memory that is lent out outlives the list of it"
    assert gradient_like(torch.empty(10)).numel() == 10
    assert gradient_memory.kept_bytes() == 0, "small ones are the allocator's business"


@pytest.mark.parametrize("uncounted", [-1, 0, 1, 2])
def test_memory_is_lent_once_however_python_counts_references(
    uncounted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda thing: count(thing) - uncounted)
    spec = importlib.util.spec_from_file_location("another_gradient_memory", gradient_memory.__file__)
    assert spec is not None
    assert spec.loader is not None
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    like = torch.empty(memory.SMALLEST)
    first, second = memory.gradient_like(like), memory.gradient_like(like)
    assert first.data_ptr() != second.data_ptr()
    place = first.data_ptr()
    del first
    assert memory.gradient_like(like).data_ptr() == place


def test_memory_of_a_size_that_is_not_asked_for_any_more_is_given_up_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free_gradient_memory()
    monkeypatch.setattr(gradient_memory, "MOST", 10 * gradient_memory.SMALLEST)
    monkeypatch.setattr(gradient_memory, "_FORGOTTEN", 3)
    old, new = (torch.empty(n * gradient_memory.SMALLEST // 4) for n in (8, 4))
    used = gradient_like(old).fill_(1)
    for _ in range(3):
        gradient_like(new)
        assert gradient_memory.kept_bytes() == 4 * old.numel(), "it may be asked for in the next step"
    gradient_like(new)
    assert gradient_memory.kept_bytes() == 4 * new.numel()
    assert bool((used == 1).all()), "what is lent out outlives it"
    free_gradient_memory()
