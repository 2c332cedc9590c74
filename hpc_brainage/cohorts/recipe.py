"""A cohort written down in one TOML file: the same things that the command line takes.

source = "participants.csv"          # paths are relative to this file
output = "abide.zarr"
id = "file_id"
diagnosis = "dx"
where = "dx == 'TC'"

[sex_codes]
1 = "M"
2 = "F"

[[add]]
role = "fmri"
name = "fc"
path = "connectomes.npz"
arrays = { data = "fc_z", ids = "file_id" }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hpc_brainage.cohorts.chosen_participants import participant_labels
from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import CHOICES, Reading
from hpc_brainage.cohorts.resample import BUNDLED_MM
from hpc_brainage.cohorts.sources import AddedSource, open_cohort
from hpc_brainage.errors import UsageError, nearest

_COLUMN_KEYS = tuple(item.name for item in fields(ColumnMap))
_READING_KEYS = (
    "features", "connectivity", "role", "entities", "atlas", "confounds", "participant_label", "voxels",
    "resample",
)  # fmt: skip
_OTHER_KEYS = ("source", "output", "add", "where", "name")
_ADDED_KEYS = ("role", "name", "path", "arrays")


@dataclass(frozen=True)
class Recipe:
    """What `open_cohort` needs, and where the store shall go: a path, a URL, or `None`, the default."""

    source: Path
    output: Path | str | None = None
    reading: Reading = field(default_factory=Reading)
    add: tuple[AddedSource, ...] = ()
    where: str | None = None
    name: str | None = None

    def open(self) -> Cohort:
        """The cohort that the recipe describes."""
        return open_cohort(
            self.source, reading=self.reading, add=self.add, where=self.where, name=self.name
        )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; relative paths in it start at its own folder.

    Raises
    ------
    UsageError : the file is missing or no TOML, has an unknown key (the nearest known one is named), a
        value of the wrong kind, or no source.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("the recipe is missing", where=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UsageError(f"not readable as TOML ({problem})", where=path) from None
    _check_keys(content, (*_COLUMN_KEYS, *_READING_KEYS, *_OTHER_KEYS), path)
    added = content.pop("add", [])
    codes = content.pop("sex_codes", None)
    if not isinstance(added, list) or not all(isinstance(item, dict) for item in added):
        raise UsageError("add is a list of tables", where=path, expected="[[add]] before each of them")
    if codes is not None and not isinstance(codes, dict):
        raise UsageError("sex_codes is a table", where=path, expected='[sex_codes], then 1 = "M"')
    labels = content.pop("participant_label", None)
    if labels is not None:
        labels = [labels] if not isinstance(labels, list) else labels
        for label in labels:
            _check_text(label, "participant_label", path)
    for key, value in content.items():
        _check_text(value, key, path)
    _check_choice(content, "age_unit", ("years", "months"), path)
    for key, known in CHOICES.items():
        _check_choice(content, key, known, path)
    if "source" not in content:
        raise UsageError("the recipe names no source", where=path, expected='source = "PATH"')
    columns: dict[str, Any] = {key: content.pop(key) for key in _COLUMN_KEYS if key in content}
    said: dict[str, Any] = {key: content.pop(key) for key in _READING_KEYS if key in content}
    if "atlas" in said:
        said["atlas"] = _beside(path, said["atlas"])
    if "resample" in said and said["resample"] not in BUNDLED_MM:
        said["resample"] = str(_beside(path, said["resample"]))
    output = content.pop("output", None)
    return Recipe(
        source=_beside(path, content.pop("source")),
        output=output if output is None or "://" in output else _beside(path, output),
        reading=Reading(
            ColumnMap(**columns, sex_codes=codes), participants=participant_labels(labels), **said
        ),
        add=tuple(_added(item, path) for item in added),
        **content,
    )


def _added(item: dict[str, Any], path: Path) -> AddedSource:
    _check_keys(item, _ADDED_KEYS, path)
    missing = [key for key in ("role", "path") if key not in item]
    if missing:
        raise UsageError(f"an [[add]] has no {missing[0]}", where=path, expected="role and path")
    arrays = item.get("arrays", {})
    if not isinstance(arrays, dict):
        raise UsageError("arrays is a table", where=path, expected='arrays = { data = "NAME" }')
    for key, value in [*arrays.items(), *((key, item[key]) for key in item if key != "arrays")]:
        _check_text(value, key, path)
    return AddedSource(item["role"], item.get("name"), _beside(path, item["path"]), arrays)


def _beside(recipe: Path, path: str) -> Path:
    return recipe.parent / Path(path).expanduser()


def _check_keys(content: Mapping[str, Any], known: tuple[str, ...], path: Path) -> None:
    for key in content:
        if key not in known:
            raise UsageError(f"unknown key {key!r}", where=path, hint=nearest(key, known))


def _check_text(value: Any, key: str, path: Path) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{key} is {value!r}", where=path, expected=f'text, as in {key} = "..."')


def _check_choice(content: Mapping[str, Any], key: str, known: tuple[str, ...], path: Path) -> None:
    if key in content and content[key] not in known:
        raise UsageError(f"{key} is {content[key]!r}", where=path, hint=nearest(str(content[key]), known))
