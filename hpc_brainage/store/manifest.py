"""What one finished part reports: a checksum per scan, statistics, and what was refused.

A manifest is written after all shards of its part are on the device; that it exists is what says that
the part is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_brainage.store.statistics import Statistics


@dataclass(frozen=True)
class PartOfModality:
    """One modality of one part.

    Parameters
    ----------
    sha256 : per row of the part, of the little-endian float32 C-order bytes of the scan; "" if absent.
    refused : per row of the part, why what the source had was not taken; "" if it was, or had nothing.
    statistics : of the scans that are present.
    """

    sha256: tuple[str, ...]
    refused: tuple[str, ...]
    statistics: Statistics


@dataclass(frozen=True)
class PartManifest:
    """The report of part number `index` of the plan with hash `plan_sha256`."""

    index: int
    plan_sha256: str
    modalities: dict[str, PartOfModality]

    def to_record(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "plan_sha256": self.plan_sha256,
            "modalities": {
                key: {
                    "sha256": list(part.sha256),
                    "refused": list(part.refused),
                    "statistics": part.statistics.to_record(),
                }
                for key, part in self.modalities.items()
            },
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> PartManifest:
        return cls(
            record["index"],
            record["plan_sha256"],
            {
                key: PartOfModality(
                    tuple(part["sha256"]),
                    tuple(part["refused"]),
                    Statistics.from_record(part["statistics"]),
                )
                for key, part in record["modalities"].items()
            },
        )
