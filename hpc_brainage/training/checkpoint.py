"""Members on disk while a run is under way: the best state so far, and those that are finished.

A finished member is never trained again when the run is started a second time with the same settings on
the same store; that is how a run that was cut off goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from hpc_brainage.config import RunConfig
from hpc_brainage.files import read_json, sha256_of_file, write_bytes, write_json
from hpc_brainage.model.member import Member


@dataclass(frozen=True)
class MemberCheckpoints:
    """The checkpoints of one member in a run's `checkpoints/` folder.

    `key` says what the member was trained by (settings, store, scans, fold); a checkpoint with another
    key is not this member's and is passed over.
    """

    folder: Path
    index: int
    key: str

    def save_best(self, state: dict[str, torch.Tensor]) -> None:
        """Keep the network of the best epoch so far."""
        write_bytes(self.folder / f"member-{self.index}-best.safetensors", save(state))

    def load_best(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"member-{self.index}-best.safetensors")

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
        (self.folder / f"member-{self.index}-best.safetensors").unlink(missing_ok=True)

    def load_finished(self, config: RunConfig) -> tuple[Member, dict[str, Any]] | None:
        """The finished member, or None if there is none that can be trusted."""
        if not (self._record.is_file() and self._weights.is_file()):
            return None
        record = read_json(self._record)
        if record["key"] != self.key or record["weights_sha256"] != sha256_of_file(self._weights):
            return None
        member = Member.from_record(record["member"], config)
        try:
            member.load_state_dict(load_file(self._weights))
        except (SafetensorError, RuntimeError):
            return None
        return member.eval(), record["summary"]

    @property
    def _weights(self) -> Path:
        return self.folder / f"member-{self.index}.safetensors"

    @property
    def _record(self) -> Path:
        return self.folder / f"member-{self.index}.json"
