"""The model bundle: a folder that holds everything scoring needs, and nothing that can run.

`model.safetensors` has the arrays of every member, `model.json` everything else (`ModelInfo`), and
`MODEL_CARD.md` says it in words. `docs/model-bundle.md` is the format's description.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import ModelError
from hpc_brainage.files import (
    read_json,
    remove_tree,
    sha256_of_file,
    sync_directory,
    write_bytes,
    write_json,
    write_text,
)
from hpc_brainage.model.calibration import Calibration
from hpc_brainage.model.card import model_card
from hpc_brainage.model.evidence import Evidence
from hpc_brainage.model.member import Member
from hpc_brainage.model.training_range import TrainingRange

FORMAT = "hpc_brainage.model"
FORMAT_VERSION = 4
_RANGE = "training_range."
WEIGHTS, INFO, CARD = "model.safetensors", "model.json", "MODEL_CARD.md"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingPeople(_Record):
    """Who the members were trained on, as far as a scorer must know."""

    people: int
    scans: int
    age_min: float
    age_max: float
    age_mean: float
    age_sd: float
    sexes: dict[str, int]
    sites: dict[str, int]
    with_modality: dict[str, int]
    where: str | None
    store: str
    store_sha256: str
    field_strengths: dict[str, int] = Field(default_factory=dict)
    """Scans by the cohort's column `magnetic_field_strength`, tesla; empty where it has none."""


class BiasLine(_Record):
    """Least-squares line through held-out predictions: predicted = intercept + slope * age (years)."""

    intercept: float
    slope: float
    n: int
    r: float | None
    """Correlation of the raw gap with age among the held-out people."""
    residual_sd: float | None = None
    """SD of the gap around the line, years; None in bundles of before it was kept."""


class ModelInfo(_Record):
    """Everything about a model but its arrays."""

    format: Literal["hpc_brainage.model"] = "hpc_brainage.model"
    format_version: int = FORMAT_VERSION
    name: str
    config: RunConfig
    members: tuple[dict[str, Any], ...]
    tables: dict[str, tuple[str, ...]]
    """By role, the modalities of the training store that the members were trained on."""
    features: dict[str, tuple[str, ...]]
    """By role, the names of all features that any member takes."""
    units: dict[str, tuple[str, ...]]
    """By role, the units of `features`, "" where unknown."""
    volumes: dict[str, tuple[int, ...]]
    """By role, the grid of the volume that the members take."""
    training: TrainingPeople
    salt: str
    seen: dict[str, int]
    """Marks of each training participant and scan (`person_mark`, `occasion_mark`, `scan_mark`) -> the
    fold whose members did not see them."""
    software: dict[str, str]
    evidence: Evidence | None = None
    bias: dict[str, BiasLine] = Field(default_factory=dict)
    """By what the ages were predicted from ("smri+fmri", "smri", ...), and for "everyone"."""
    calibration: Calibration | None = None
    """None in bundles of format 1, and where there were too few controls."""
    weights_sha256: str = ""


@dataclass(frozen=True)
class Bundle:
    """Members and what is known about them."""

    info: ModelInfo
    members: tuple[Member, ...]
    sha256: str = ""
    """Hash of model.json, which holds the hash of the weights; empty before the bundle was saved."""
    training_range: TrainingRange | None = None
    """What the training people looked like; None in bundles of format 1."""

    @property
    def roles(self) -> tuple[str, ...]:
        return self.members[0].roles

    @cached_property
    def _columns(self) -> dict[tuple[int, str], torch.Tensor | None]:
        places = {
            role: {name: index for index, name in enumerate(features)}
            for role, features in self.info.features.items()
        }
        found: dict[tuple[int, str], torch.Tensor | None] = {}
        for index, member in enumerate(self.members):
            device = next(member.parameters()).device
            for role in member.roles:
                own = [places[role][name] for name in member.features(role)]
                is_all = not own or own == list(range(len(places[role])))
                found[index, role] = None if is_all else torch.tensor(own, device=device)
        return found

    def inputs_of(self, index: int, x: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What a member takes of the bundle's inputs: by role, its features in its order, or the volume."""
        taken = {}
        for role in self.members[index].roles:
            columns = self._columns[index, role]
            taken[role] = x[role] if columns is None else x[role][:, columns]
        return taken

    @property
    def folds(self) -> tuple[int, ...]:
        """Of each member, the fold that it did not learn from."""
        return tuple(index // self.info.config.training.ensemble for index in range(len(self.members)))

    def known_people(self, scans: pd.DataFrame, checksums: Sequence[Sequence[str]]) -> KnownPeople:
        """Who of these scans' people the members were trained on.

        Parameters
        ----------
        scans : scan table; `participant_id`, `sex` and `age` are used.
        checksums : of each scan, the checksums of its measurements ("" where it has none).
        """
        salt, seen = self.info.salt, self.info.seen
        fold, sure = [], []
        people = zip(scans["participant_id"], scans["sex"], scans["age"], checksums, strict=True)
        for person, sex, age, own in people:
            certain = [occasion_mark(person, sex, age, salt), *(scan_mark(c, salt) for c in own if c)]
            found = next((seen[mark] for mark in certain if mark in seen), None)
            sure.append(found is not None)
            fold.append(seen.get(person_mark(person, salt), -1) if found is None else found)
        return KnownPeople(np.array(fold, dtype=np.int64), np.array(sure, dtype=bool))


@dataclass(frozen=True)
class KnownPeople:
    """For each scan the fold in which the person was held out, or -1 if no member knows them; and whether
    it is certain that it is the person: the same identifier, sex and age, or the very same data. Where it
    is not, only the identifier is the same, which may be a later session or somebody else's."""

    fold: np.ndarray
    certain: np.ndarray


def person_mark(participant_id: str, salt: str) -> str:
    """A participant's mark in a bundle; the identifier itself is not given away with the model."""
    return _mark(f"{salt}:{participant_id}")


def occasion_mark(participant_id: str, sex: str, age: float, salt: str) -> str:
    """The mark of a participant of this sex at this age, years to a hundredth."""
    return _mark(f"{salt}:{participant_id}:{sex}:{age:.2f}")


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scan_mark(checksum: str, salt: str) -> str:
    """The mark of one measurement of a training scan, from its checksum in the store."""
    return _mark(f"{salt}:{checksum}")


def save_bundle(
    folder: Path, info: ModelInfo, members: Sequence[Member], training_range: TrainingRange | None = None
) -> Bundle:
    """Write a bundle as a whole; an older one at the same place is replaced only when it is complete."""
    arrays = {
        f"{index}.{name}": tensor.detach().cpu().contiguous()
        for index, member in enumerate(members)
        for name, tensor in member.state_dict().items()
    }
    if training_range is not None:
        arrays |= {f"{_RANGE}{name}": array for name, array in training_range.arrays().items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.????????.tmp"):  # of somebody who was killed here
        remove_tree(left)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    weights = save(arrays)
    info = info.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    write_bytes(fresh / WEIGHTS, weights)
    write_text(fresh / CARD, model_card(info))
    write_json(fresh / INFO, info.model_dump(mode="json"))
    fresh.chmod(0o755)
    remove_tree(folder)
    os.replace(fresh, folder)
    sync_directory(folder.parent)
    return Bundle(info, tuple(members), bundle_sha256(folder), training_range)


def bundle_sha256(folder: Path) -> str:
    """A bundle's hash: of its description, which holds the hash of its weights."""
    return sha256_of_file(folder / INFO)


def read_info(folder: Path) -> ModelInfo:
    """The description of a bundle, without its arrays.

    Raises
    ------
    ModelError : not a bundle, of a newer format, or damaged.
    """
    if not (folder / INFO).is_file():
        raise ModelError(
            "this is not a model bundle",
            where=folder,
            expected=f"a folder with {INFO} and {WEIGHTS}, as `brainage train` makes",
        )
    record = read_json(folder / INFO, ModelError)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ModelError("this is not a model bundle of hpc_brainage", where=folder / INFO)
    version = record.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ModelError(
            f"the model's format version {version} is newer than {FORMAT_VERSION}",
            where=folder / INFO,
            hint="update hpc-brainage",
        )
    try:
        return ModelInfo.model_validate(record)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if version < FORMAT_VERSION:
            gone = ", ".join(_settings_that_are_gone(problem))
            other = f"with settings that are gone: {gone}" if gone else f"or damaged, at {place}"
            raise ModelError(
                f"the model is of an older version of hpc-brainage, {other}",
                where=folder / INFO,
                expected=f"format version {FORMAT_VERSION}; this is {version}",
                hint="train the model again, or score with the version that made it (see `software`)",
            ) from None
        raise ModelError(f"the model's description is damaged at {place}", where=folder / INFO) from None


def _settings_that_are_gone(problem: ValidationError) -> list[str]:
    """Names of the settings of a description that nobody knows any more."""
    return [
        ".".join(str(part) for part in one["loc"][1:])
        for one in problem.errors()
        if one["type"] == "extra_forbidden" and one["loc"][0] == "config"
    ]


def load_bundle(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Load a bundle and check its weights against the hash in its description.

    Raises
    ------
    ModelError : not a bundle, of a newer format, or its files do not belong together.
    """
    info = read_info(folder)
    weights = folder / WEIGHTS
    if not weights.is_file() or sha256_of_file(weights) != info.weights_sha256:
        raise ModelError(
            "the weights are not those that the description speaks of",
            where=weights,
            expected=f"a file with the SHA-256 {info.weights_sha256}",
            hint="copy the bundle again, both files together",
        )
    try:
        arrays = load_file(weights, device=str(device))
        members = []
        for index, record in enumerate(info.members):
            member = Member.from_record(record, info.config).to(device)
            prefix = f"{index}."
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            member.load_state_dict(own, strict=True)
            members.append(member.eval())
        if not members:
            raise ValueError("it has no members")
        ranges = {k.removeprefix(_RANGE): v for k, v in arrays.items() if k.startswith(_RANGE)}
        training_range = TrainingRange.from_arrays(ranges) if ranges else None
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ModelError(f"the weights do not fit the description ({problem})", where=folder) from None
    return Bundle(info, tuple(members), bundle_sha256(folder), training_range)
