"""How sources are read: everything that a user may say about that, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.errors import UsageError, nearest
from hpc_brainage.modality import check_role

Connectivity = Literal["pearson", "partial", "tangent"]
Confounds = Literal["simple", "scrubbing", "compcor", "ica_aroma", "none"]
Voxels = Literal["native", "float32"]

_RECORDED = ("features", "connectivity", "role", "entities", "voxels", "resample")

CHOICES: dict[str, tuple[str, ...]] = {
    "connectivity": get_args(Connectivity),
    "confounds": get_args(Confounds),
    "voxels": get_args(Voxels),
}


@dataclass(frozen=True)
class Reading:
    """How the sources of a cohort are read. What a source has no use for does not concern it.

    Parameters
    ----------
    columns : which columns of tables say who, how old and so on; the others are recognised.
    features : glob patterns of the columns that are measurements, for tables that have such columns.
    connectivity : how ROI time series become edges.
    role : of the measurements in the source itself, where it is a table, an .npz, images or time series.
    entities : which files of BIDS derivatives are meant, as in "space=MNI152NLin2009cAsym,desc=preproc".
    atlas : an image of labels; with it, BOLD series of BIDS derivatives become ROI time series.
    confounds : the strategy by which those are cleaned (see `confounds.cleaning_of`).
    participants : only these (no `sub-`, leading zeros count); everybody if None.
    voxels : whether images of integers are kept as integers ("native") or as "float32".
    resample : a template whose grid all images are brought onto; None refuses those on another grid.
    """

    columns: ColumnMap = field(default_factory=ColumnMap)
    features: str | None = None
    connectivity: Connectivity = "pearson"
    role: str | None = None
    entities: str | None = None
    atlas: Path | None = None
    confounds: Confounds = "simple"
    participants: tuple[str, ...] | None = None
    voxels: Voxels = "native"
    resample: str | None = None

    def __post_init__(self) -> None:
        if self.role is not None:
            check_role(self.role)
        for what, known in CHOICES.items():
            said = getattr(self, what)
            if said not in known:
                raise UsageError(
                    f"unknown {what}",
                    where=f"--{what} {said}",
                    expected=" or ".join(known),
                    hint=nearest(str(said), known),
                )

        if self.confounds != "simple" and self.atlas is None:
            raise UsageError(
                "a strategy for confounds would not be heard without an atlas",
                where=f"--confounds {self.confounds}",
                expected="BOLD series that become time series of regions: only these are cleaned",
                hint="say which atlas with --atlas LABELS.nii.gz",
            )

    def describe(self, where: str | None = None) -> dict[str, Any]:
        """A JSON-able record without paths, as a store keeps it; `where` is the selection of scans.

        What a later version can be told is in it only if it was said, so that a record made before
        stays what it was.
        """
        record: dict[str, Any] = {
            **self.columns.describe(),
            "features": self.features,
            "where": where,
            "connectivity": self.connectivity,
            "entities": self.entities,
        }
        if self.role is not None:
            record["role"] = self.role
        if self.atlas is not None:
            record |= {"atlas": self.atlas.name, "confounds": self.confounds}
        if self.participants is not None:
            record["participant_label"] = list(self.participants)
        if self.voxels != "native":
            record["voxels"] = self.voxels
        if self.resample is not None:
            record["resample"] = Path(self.resample).name
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Reading:
        """What `describe` recorded; the selection of scans is not part of it.

        Raises
        ------
        UsageError : a file was named whose place nobody recorded; or this is no such record.
        """
        from hpc_brainage.cohorts.resample import BUNDLED_MM

        if "atlas" in record or record.get("resample") not in (None, *BUNDLED_MM):
            named = record.get("atlas") or record["resample"]
            raise UsageError(
                f"these scans were read with the image {named}, and nobody recorded where it is",
                hint="say how they were read in a recipe",
            )
        said = {key: value for key, value in record.items() if value is not None}
        labels = said.get("participant_label")
        codes = said.get("sex_codes")
        words = [value for key, value in said.items() if key not in ("participant_label", "sex_codes")]
        if not all(isinstance(word, str) for word in (*words, *(labels or ()), *(codes or {}).values())):
            raise UsageError("how these scans were read is not recorded in a way that is understood")
        columns = {item.name: said[item.name] for item in fields(ColumnMap) if item.name in said}
        others = {key: said[key] for key in _RECORDED if key in said}
        return cls(ColumnMap(**columns), participants=None if labels is None else tuple(labels), **others)
