"""Errors in the user's words: what, where, what was expected, what to do; and a documented exit code."""

from __future__ import annotations

import inspect
import pickle

import pytest

from hpc_brainage import errors
from hpc_brainage.errors import BrainAgeError, ExitCode, UsageError, nearest

ALL_ERRORS = [
    found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, BrainAgeError)
]


def test_a_message_says_what_where_expected_and_what_to_do() -> None:
    error = BrainAgeError(
        "the age is 412", where="sub-07, participants.tsv", expected="years", hint="--age-unit months"
    )
    assert str(error).splitlines() == [
        "the age is 412",
        "  where:    sub-07, participants.tsv",
        "  expected: years",
        "  to do:    --age-unit months",
    ]


def test_what_was_not_said_leaves_no_empty_line() -> None:
    assert str(BrainAgeError("the disk is full")) == "the disk is full"
    assert str(BrainAgeError("no such file", hint="look again")).splitlines() == [
        "no such file",
        "  to do:    look again",
    ]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_ends_a_command_with_a_documented_code_that_is_not_success(
    kind: type[BrainAgeError],
) -> None:
    assert kind.exit_code in (ExitCode.USAGE, ExitCode.INPUT, ExitCode.ENVIRONMENT)
    assert kind("x").exit_code == kind.exit_code


def test_an_error_keeps_its_parts_on_the_way_back_from_a_worker() -> None:
    """Dask pickles what a worker raises (between our own processes; no file of a stranger is opened)."""
    error = UsageError("what", where="here", expected="that", hint="do")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is UsageError
    assert str(back) == str(error)


def test_the_nearest_spelling_is_named() -> None:
    assert nearest("epoch", ["epochs", "folds", "seed"]) == "did you mean 'epochs'?"
    assert nearest("AGE", ["age", "AGENCY", "sex"]) == "did you mean 'age'?"


def test_where_nothing_is_near_the_known_ones_are_listed() -> None:
    assert nearest("zzz", ["folds", "epochs"]) == "known: epochs, folds"
    assert nearest("zzz", [f"column {i:02d}" for i in range(30)]).endswith("column 19, ...")
    assert nearest("zzz", []) == "none are known"
