"""`brainage report`, as it is typed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from cli.commands import Answer, Brainage, type_command
from scored_tables import score_table, sidecar, written

from hpc_brainage.scoring.table import write_table


def test_a_store_is_scored_and_reported_on(trained: tuple[Path, Answer]) -> None:
    folder, _ = trained
    assert type_command(folder, "score", "openbhb.zarr", "--out", "scores/all", "--workers", 1).code == 0
    said = type_command(folder, "report", "scores/all.tsv")
    assert said.code == 0
    page = (folder / "scores" / "all.html").read_text()
    assert "openbhb, scored by" in page
    assert "Are they other people than the training's?" in said.text
    assert f"report {Path('scores') / 'all.html'}" in said.text


def test_the_page_goes_where_it_is_asked_for_and_says_the_verdict(
    brainage: Brainage, tmp_path: Path
) -> None:
    written(tmp_path, score_table(400).query("diagnosis == 'control'").reset_index(drop=True))
    said = brainage("report", "scores", "--group", "sex", "--out", "pages/one.html")
    assert said.code == 0
    assert "can this model's brain ages be used in this cohort: yes" in said.text
    assert "Differences by sex" in (tmp_path / "pages" / "one.html").read_text()
    assert not (tmp_path / "scores.html").exists()


def test_a_tsv_without_bias_correction_is_reported_on(brainage: Brainage, tmp_path: Path) -> None:
    table = score_table(60).assign(bias_method="none", bias_fit="", bag_corrected=np.nan)
    write_table(table, tmp_path / "plain", sidecar(table))
    said = brainage("report", "plain.tsv")
    assert said.code == 0
    assert "No line was taken out of the gap" in (tmp_path / "plain.html").read_text()


def test_bad_input_ends_in_a_sentence(brainage: Brainage, tmp_path: Path) -> None:
    assert brainage("report", "nowhere").code == 3
    written(tmp_path, score_table(50).assign(iq=range(50)))
    wrong = brainage("report", "scores", "--group", "diagnosys")
    assert wrong.code == 2
    assert "'diagnosis'" in wrong.err
    assert brainage("report", "scores", "--group", "iq").code == 2
    unasked = brainage("report", "scores", "--atlas", "smri=aparc.nii.gz")
    assert unasked.code == 2
    assert "--contributions" in unasked.err
    (tmp_path / "scores.json").write_text("[]")
    assert brainage("report", "scores").code == 3
    (tmp_path / "scores.parquet").write_bytes(b"no table")
    assert brainage("report", "scores").code == 3
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "scores.parquet")
    assert brainage("report", "scores").code == 3
