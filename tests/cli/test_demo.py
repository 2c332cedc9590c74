"""The demo, as somebody new types it: twice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import type_command


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_shows_the_whole_path_and_can_be_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "my demo"
    first = type_command(tmp_path, "demo", str(folder))
    assert first.code == 0, first.text
    for verb in ("simulate", "convert", "inspect", "verify", "train", "score"):
        assert f"$ brainage {verb} " in first.text
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    run = {
        "config.toml", "request.json", "status.json", "metrics.jsonl", "held_out.tsv",
        "model/model.safetensors", "model/model.json", "model/MODEL_CARD.md",
    }  # fmt: skip
    assert {f"runs/demo/{name}" for name in run} <= made
    assert {"scores/demo.tsv", "scores/demo.parquet", "scores/demo.json", "openbhb.account.tsv"} <= made
    assert not [name for name in made if ".tmp" in name or ".parts" in name]
    scores = pd.read_csv(folder / "scores" / "demo.tsv", sep="\t", dtype={"participant_id": str})
    assert set(scores["status"]) == {"scored"}
    assert scores["in_training"].sum() == (scores["split"] == "train").sum()
    again = type_command(tmp_path, "demo", str(folder))
    assert again.code == 0, again.text
    assert "nothing was left to do" in again.text
    pd.testing.assert_frame_equal(
        scores, pd.read_csv(folder / "scores" / "demo.tsv", sep="\t", dtype={"participant_id": str})
    )
