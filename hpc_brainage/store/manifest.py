"""What one finished part reports: a checksum per scan, statistics, and what was refused.

A manifest is written after all shards of its part are on the device; that it exists is what says that
the part is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from hpc_brainage.store.statistics import Statistics


@dataclass(frozen=True)
class PartOfModality:
    """One modality of one part, or of one shard of it.

    Parameters
    ----------
    checksums : per row, of the numbers of the scan as they are kept (see `survey`); "" if absent.
    refused : per row, why what the source had was not taken; "" if it was, or had nothing.
    scales : per row, the slope and offset of integers; (1, 0) where there are none.
    statistics : of the scans that are present.
    shard_bytes : size of each shard file; 0 where a shard has no scan and no file.
    """

    checksums: tuple[str, ...]
    refused: tuple[str, ...]
    scales: tuple[tuple[float, float], ...]
    statistics: Statistics
    shard_bytes: tuple[int, ...]

    @classmethod
    def joined(cls, parts: Iterable[PartOfModality]) -> PartOfModality:
        """What the shards of a part, or the parts of a store, report in their order; at least one."""
        everyone = Joining()
        for part in parts:
            everyone.add(part)
        return everyone.whole()

    def without_first(self, rows: int) -> PartOfModality:
        """Without the scans that begin it, of which the statistics must know nothing."""
        return replace(
            self,
            checksums=self.checksums[rows:],
            refused=self.refused[rows:],
            scales=self.scales[rows:],
        )


class Joining:
    """Reports that are joined as they come, so that the statistics of one at a time are in memory."""

    def __init__(self) -> None:
        self._checksums: list[str] = []
        self._refused: list[str] = []
        self._scales: list[tuple[float, float]] = []
        self._shard_bytes: list[int] = []
        self._statistics: Statistics | None = None

    def add(self, part: PartOfModality) -> None:
        """Put the next report behind those that were added."""
        self._checksums += part.checksums
        self._refused += part.refused
        self._scales += part.scales
        self._shard_bytes += part.shard_bytes
        known = self._statistics
        self._statistics = part.statistics if known is None else known.merge(part.statistics)

    def whole(self) -> PartOfModality:
        """All that were added, as one."""
        assert self._statistics is not None, "at least one report"
        return PartOfModality(
            tuple(self._checksums),
            tuple(self._refused),
            tuple(self._scales),
            self._statistics,
            tuple(self._shard_bytes),
        )


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
                    "checksums": list(part.checksums),
                    "refused": list(part.refused),
                    "scales": [list(scale) for scale in part.scales],
                    "shard_bytes": list(part.shard_bytes),
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
                    tuple(part["checksums"]),
                    tuple(part["refused"]),
                    tuple((slope, offset) for slope, offset in part["scales"]),
                    Statistics.from_record(part["statistics"]),
                    tuple(part["shard_bytes"]),
                )
                for key, part in record["modalities"].items()
            },
        )
