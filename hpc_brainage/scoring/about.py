"""What a score table's sidecar says of the model, so that a report needs the table's files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc_brainage.errors import BrainAgeError
from hpc_brainage.files import read_json, write_text
from hpc_brainage.model.bundle import ModelInfo
from hpc_brainage.model.calibration import Calibration
from hpc_brainage.model.card import model_card
from hpc_brainage.provenance import package_version

BIDS_VERSION = "1.10.0"
GENERATOR = "hpc-brainage"
_DESCRIPTION = "dataset_description.json"


def about_model(info: ModelInfo, sha256: str) -> dict[str, Any]:
    """Name, hash, card, evidence, bias lines, training people, roles, how many features, calibration."""
    return {
        "name": info.name,
        "sha256": sha256,
        "roles": sorted({*info.features, *info.volumes}, reverse=True),
        "features": {role: len(names) for role, names in info.features.items()},
        "card": model_card(info),
        "evidence": info.evidence.model_dump(mode="json") if info.evidence else None,
        "bias": {group: line.model_dump(mode="json") for group, line in info.bias.items()},
        "training": info.training.model_dump(mode="json"),
        "calibration": _summary(info.calibration) if info.calibration else None,
    }


def calibration_notes(info: ModelInfo) -> tuple[str, ...]:
    """What a table by this model will lack, and why."""
    if info.calibration is not None:
        return ()
    why = (
        "it was made before there was one; train again to have it"
        if info.format_version < 2
        else "too few held-out controls had a prediction"
    )
    return (
        f"the model brings no calibration ({why}): there are no intervals, normative z and depth flags",
    )


def describe_folder(folder: Path, store: str) -> Path | None:
    """Write the BIDS description of a folder of score tables; None where there is another one already.

    Parameters
    ----------
    store : name of the store that was scored.
    """
    path = folder / _DESCRIPTION
    if path.exists() and not _is_ours(path):
        return None
    sources = _sources(path) if path.exists() else []
    if store not in sources:
        sources.append(store)
    description = {
        "Name": "Brain-age scores",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": GENERATOR, "Version": package_version()}],
        "SourceDatasets": [{"URL": source} for source in sources],
    }
    write_text(path, json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    return path


def _summary(calibration: Calibration) -> dict[str, Any]:
    return {
        "controls": calibration.controls or "everyone",
        "n": calibration.n,
        "coverage": {name: one.covered for name, one in calibration.coverage.items()},
        "coverage_n": {name: one.n for name, one in calibration.coverage.items()},
        "uniformity": {name: one.model_dump(mode="json") for name, one in calibration.uniformity.items()},
    }


def _is_ours(path: Path) -> bool:
    try:
        made_by = read_json(path).get("GeneratedBy", [])
        return any(one.get("Name") == GENERATOR for one in made_by)
    except (BrainAgeError, OSError, AttributeError, TypeError, ValueError):
        return False


def _sources(path: Path) -> list[str]:
    found = read_json(path).get("SourceDatasets", [])
    return [one["URL"] for one in found if isinstance(one, dict) and isinstance(one.get("URL"), str)]
