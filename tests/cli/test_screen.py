"""What verbs show while they are at work."""

from __future__ import annotations

import pytest

from hpc_brainage.cli import screen


def test_a_log_has_a_line_now_and_then_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    with screen.progress("converting") as show:
        show(100, 1000)  # an earlier run had done these
        for done in range(101, 301):
            now += 0.25
            show(done, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["converting: 220 of 1000, 4.0/s, 0:03:15 left"]


def test_notes_that_say_the_same_of_several_sources_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    screen.account_notes(
        [
            "a.tsv: 2 columns renamed: x -> y, z -> w",
            "people.tsv: sex is unknown for 1 of 2 rows",
            "b.tsv: 3 columns renamed: u -> v, ... (3)",
            "b.tsv: 1 columns are the same for everyone: CSF",
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "  · 2 sources (a.tsv, ...): 5 columns renamed: x -> y, z -> w, ...",
        "  · people.tsv: sex is unknown for 1 of 2 rows",
        "  · b.tsv: 1 columns are the same for everyone: CSF",
    ]


def test_short_work_leaves_no_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.progress("converting") as show:
        for done in range(11):
            show(done, 10)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rate", "said"), [(0.3471, "0.35"), (8.71, "8.7"), (99.94, "99.9"), (843.6, "844"), (1570.2, "1,570")]
)
def test_a_rate_is_written_as_one_reads_it(rate: float, said: str) -> None:
    assert screen.per_second(rate) == said


def test_a_number_of_years_has_a_true_minus_and_none_before_nothing() -> None:
    assert screen.years(None) == "-"
    assert screen.years(-0.001) == "0.00"
    assert screen.years(-1.306, sign=True) == "−1.31"
    assert screen.years(0.44, sign=True) == "+0.44"
