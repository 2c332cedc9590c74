"""What `brainage compare` prints."""

from __future__ import annotations

import pytest
from scored_tables import score_table

from hpc_brainage.cli.compare import _show
from hpc_brainage.evaluation.compare_scores import compare_scores
from hpc_brainage.scoring.saved import SavedScores


def test_a_difference_has_a_true_minus_and_none_where_it_rounds_to_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = score_table(60).assign(in_training=False, members_used=3)
    moved = first.assign(session_id="2", brain_age=first["brain_age"] - 2.5, bag=first["bag"] - 0.001)
    _show(compare_scores(SavedScores("a", first, {}), SavedScores("b", moved, {})))
    said = " ".join(capsys.readouterr().out.split())
    assert "−2.50" in said
    assert "-2.50" not in said
    assert "0.00 (0.00 to 0.00)" in said
    assert "-0.00" not in said
