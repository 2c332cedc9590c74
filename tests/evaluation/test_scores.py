"""Reading the scores that a report is about."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scored_tables import score_table, sidecar, written

from hpc_brainage.errors import ScoringError
from hpc_brainage.evaluation.scores import scores_to_report

HEAD = "role\tfeature\tgroup\tmean_contribution_years\tmean_absolute_contribution_years\tn\n"


def test_any_of_the_files_names_the_scores(tmp_path: Path) -> None:
    table = score_table(30)
    out = written(tmp_path, table)
    for name in (out, out.with_suffix(".parquet"), out.with_suffix(".json")):
        read = scores_to_report(name)
        assert read.path == out
        pd.testing.assert_frame_equal(read.table, table, check_dtype=False)
        assert read.contributions is None


def test_contributions_are_read_as_they_stand(tmp_path: Path) -> None:
    out = written(tmp_path, score_table(30))
    (tmp_path / "scores_contributions.tsv").write_text(HEAD + "smri\tNA\t\t0.5\t\t30\n")
    found = scores_to_report(out).contributions
    assert found is not None
    assert found.iloc[0]["feature"] == "NA"
    assert found.iloc[0]["mean_contribution_years"] == 0.5
    (tmp_path / "scores_contributions.tsv").write_text("feature\tx\na\t1\n")
    with pytest.raises(ScoringError, match="lack the columns role, group"):
        scores_to_report(out)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    table = score_table(30)
    with pytest.raises(ScoringError, match="about 29 scans, the table has 30"):
        scores_to_report(written(tmp_path, table, sidecar(table.head(29))))
    with pytest.raises(ScoringError, match="version 99"):
        scores_to_report(written(tmp_path, table, sidecar(table) | {"schema_version": 99}))
    out = written(tmp_path, table.drop(columns="flags"))
    with pytest.raises(ScoringError, match="lacks the columns flags"):
        scores_to_report(out)
    (tmp_path / "scores.json").unlink()
    with pytest.raises(ScoringError, match="no sidecar"):
        scores_to_report(out)
