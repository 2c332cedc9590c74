"""A table's sidecar tells a report all it needs, and the folder says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_depth import INFO

from hpc_brainage.model.calibration import Calibration, Coverage, Uniformity
from hpc_brainage.scoring.about import about_model, calibration_notes, describe_folder


def test_the_sidecar_has_the_card_and_a_summary_of_the_calibration() -> None:
    found = Calibration(
        controls="", n=50, groups={}, coverage={"everyone": Coverage(n=50, covered=0.92)},
        uniformity={"smri": Uniformity(n=50, ks=0.05, p=0.4, skew=0.1)},
    )  # fmt: skip
    about = about_model(INFO.model_copy(update={"calibration": found}), "abc")
    assert about["sha256"] == "abc"
    assert about["roles"] == ["smri"]
    assert about["features"] == {"smri": len(INFO.features["smri"])}
    assert about["card"].startswith("# m")
    assert "92.0%" in about["card"]
    assert about["calibration"] == {
        "controls": "everyone", "n": 50, "coverage": {"everyone": 0.92}, "coverage_n": {"everyone": 50},
        "uniformity": {"smri": {"n": 50, "ks": 0.05, "p": 0.4, "skew": 0.1}},
    }  # fmt: skip
    json.dumps(about)
    assert about_model(INFO, "abc")["calibration"] is None


@pytest.mark.parametrize(("version", "why"), [(1, "train again"), (2, "too few held-out controls")])
def test_a_model_without_calibration_says_why(version: int, why: str) -> None:
    (note,) = calibration_notes(INFO.model_copy(update={"format_version": version}))
    assert why in note


def test_a_folder_of_scores_is_described_and_somebody_else_s_left_alone(tmp_path: Path) -> None:
    path = describe_folder(tmp_path, "abide")
    assert path is not None
    first = json.loads(path.read_text())
    assert first["DatasetType"] == "derivative"
    assert first["GeneratedBy"][0]["Name"] == "hpc-brainage"
    describe_folder(tmp_path, "clinic")
    describe_folder(tmp_path, "abide")
    sources = json.loads(path.read_text())["SourceDatasets"]
    assert [source["URL"] for source in sources] == ["abide", "clinic"]
    for foreign in ('{"Name": "raw", "BIDSVersion": "1.8.0"}', "not json", "[]"):
        path.write_text(foreign)
        assert describe_folder(tmp_path, "abide") is None
        assert path.read_text() == foreign
