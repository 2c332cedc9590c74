"""Finished members on disk while a run is under way.

A finished member is not trained again when the run is started a second time with the same settings on the
same store; that is how a run that was cut off goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import BrainAgeError
from hpc_brainage.files import read_json, sha256_of_file, write_bytes, write_json
from hpc_brainage.model.member import Member

_UNUSABLE = (BrainAgeError, SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberCheckpoint:
    """One member's checkpoint in a run's `checkpoints/` folder.

    `key` says by what the run's members are trained (settings, store, scans, software); a checkpoint with
    another key is not this run's and is passed over.
    """

    folder: Path
    index: int
    key: str

    def save_finished(self, member: Member, summary: dict[str, Any]) -> None:
        """Keep the finished member; the JSON is written last and makes it count."""
        weights = self._weights
        write_bytes(weights, save({k: v.contiguous() for k, v in member.state_dict().items()}))
        record = {
            "key": self.key,
            "weights_sha256": sha256_of_file(weights),
            "member": member.describe(),
            "summary": summary,
        }
        write_json(self._record, record)

    def load_finished(self, config: RunConfig) -> tuple[Member, dict[str, Any]] | None:
        """The finished member, or None if there is none that can be trusted; the log says why."""
        if not self._record.is_file():
            return None
        try:
            record = read_json(self._record)
            if record["key"] != self.key:
                raise ValueError("it is of other settings, another store or other software")
            if record["weights_sha256"] != sha256_of_file(self._weights):
                raise ValueError("its weights are damaged")
            member = Member.from_record(record["member"], config)
            member.load_state_dict(load_file(self._weights))
            return member.eval(), record["summary"]
        except _UNUSABLE as why:
            reason = why.what if isinstance(why, BrainAgeError) else why
            _LOG.warning("member %d is trained again: %s (%s)", self.index, self._record, reason)
            return None

    @property
    def _weights(self) -> Path:
        return self.folder / f"member-{self.index}.safetensors"

    @property
    def _record(self) -> Path:
        return self.folder / f"member-{self.index}.json"
