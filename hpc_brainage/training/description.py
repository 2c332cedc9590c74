"""What a bundle says about its members and about the people that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hpc_brainage.config import RunConfig
from hpc_brainage.model.bundle import ModelInfo, TrainingPeople, occasion_mark, person_mark, scan_mark
from hpc_brainage.model.member import Member
from hpc_brainage.provenance import software
from hpc_brainage.scans import FIELD_STRENGTH, field_strengths
from hpc_brainage.training.data import FeatureInput, TrainingData


def describe_model(
    name: str,
    config: RunConfig,
    data: TrainingData,
    fold: np.ndarray,
    members: Sequence[Member],
    where: str | None,
    salt: str,
) -> ModelInfo:
    """The description of the trained members, before their errors have been measured.

    Parameters
    ----------
    fold : the fold in which each scan of `data` was held out.
    where : the selection that `data` was made with.
    salt : joined to what is hashed about the training people.
    """
    scans, age = data.scans, data.scans["age"]
    features: dict[str, tuple[str, ...]] = {}
    units: dict[str, tuple[str, ...]] = {}
    tables: dict[str, tuple[str, ...]] = {}
    volumes: dict[str, tuple[int, ...]] = {}
    for role, source in data.inputs.items():
        if isinstance(source, FeatureInput):
            taken = {name for member in members for name in member.features(role)}
            unit = dict(zip(source.names, source.units, strict=True))
            features[role] = tuple(name for name in source.names if name in taken)
            units[role] = tuple(unit[name] for name in features[role])
            tables[role] = source.tables
        else:
            volumes[role] = source.grid
            tables[role] = (source.key.partition("/")[2],)
    people = TrainingPeople(
        people=int(scans["participant_id"].nunique()),
        scans=len(scans),
        age_min=float(age.min()),
        age_max=float(age.max()),
        age_mean=float(age.mean()),
        age_sd=float(age.std(ddof=0)),
        sexes=_counts(scans["sex"]),
        sites=_counts(scans["site"]),
        with_modality={role: int(source.present.sum()) for role, source in data.inputs.items()},
        where=where,
        store=data.store.name,
        store_sha256=data.store.content_sha256,
        field_strengths=_field_strengths(scans),
    )
    seen: dict[str, int] = {}
    people_of = zip(scans["participant_id"], scans["sex"], age, data.checksums, fold, strict=True)
    for person, sex, years, checksums, index in people_of:
        seen[person_mark(person, salt)] = int(index)
        seen[occasion_mark(person, sex, years, salt)] = int(index)
        seen |= {scan_mark(checksum, salt): int(index) for checksum in checksums if checksum}
    return ModelInfo(
        name=name,
        config=config,
        members=tuple(member.describe() for member in members),
        tables=tables,
        features=features,
        units=units,
        volumes=volumes,
        training=people,
        salt=salt,
        seen=dict(sorted(seen.items())),
        software=software("torch", "deepspeed", "numpy"),
    )


def _field_strengths(scans: pd.DataFrame) -> dict[str, int]:
    if FIELD_STRENGTH not in scans:
        return {}
    strengths = field_strengths(scans[FIELD_STRENGTH])
    return _counts(strengths[strengths != ""])


def _counts(column: pd.Series) -> dict[str, int]:
    counts = column.value_counts()
    return {str(value): int(counts[value]) for value in sorted(counts.index)}
