"""Checkpoints of something that is still being trained, which do not know how many processes wrote them.

    step-00000120/rank-0.safetensors   pieces of flattened tensors
                  rank-0.json          where the pieces belong, the hash of the other file, and the progress

Each process that holds something writes a file of its own, and its JSON last. A checkpoint is complete if
all JSON files are there; those of all processes together hold every tensor whole, and any number of
processes can go on from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hpc_brainage.errors import BrainAgeError, TrainingError
from hpc_brainage.files import read_json, remove_tree, sha256_of_file, write_durably, write_json
from hpc_brainage.training.engine import Piece

KEPT = 2
"""Complete checkpoints that are kept of what is being trained; each holds the best epoch's network."""
_STEP = re.compile(r"step-(\d{8,})")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint that was read: of which step, the whole tensors, flat float32, and what was written
    beside them."""

    step: int
    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]


@dataclass(frozen=True)
class Snapshots:
    """The checkpoints in a folder. `key` says by what is trained; those of another key are passed over."""

    folder: Path
    key: str

    def write(
        self,
        step: int,
        rank: int,
        writers: int,
        pieces: Mapping[str, Piece],
        sizes: Mapping[str, int],
        record: Mapping[str, Any],
    ) -> None:
        """Write what one of `writers` processes holds, float32 on the host.

        Parameters
        ----------
        sizes : numbers in each whole tensor, by the names of `pieces`.
        record : what shall be read beside the tensors; that of rank 0 counts.
        """
        place = self._place(step)
        place.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        write_durably(place / f"rank-{rank}.safetensors", lambda file: _write_flat(file, pieces, digest))
        content = {
            "key": self.key,
            "writers": writers,
            "sha256": digest.hexdigest(),
            "starts": {name: piece.start for name, piece in pieces.items()},
            "sizes": dict(sizes),
            "record": dict(record),
        }
        write_json(place / f"rank-{rank}.json", content)

    def newest(self) -> Snapshot | None:
        """The newest checkpoint that is complete and undamaged; others are named in the log."""
        for step in sorted(self._steps(), reverse=True):
            try:
                return self.read(step)
            except BrainAgeError as problem:
                _LOG.warning("a checkpoint is passed over: %s (%s)", self._place(step), problem.what)
        return None

    def read(self, step: int) -> Snapshot:
        """Put a checkpoint's tensors together.

        Raises
        ------
        TrainingError : it is not complete, damaged, or of another run.
        """
        place = self._place(step)
        first = read_json(place / "rank-0.json", TrainingError)
        try:
            if first["key"] != self.key:
                raise TrainingError("it is of other settings, another store or other software", where=place)
            tensors: dict[str, torch.Tensor] = {}
            filled: dict[str, int] = {}
            for rank in range(first["writers"]):
                said = first if rank == 0 else read_json(place / f"rank-{rank}.json", TrainingError)
                path = place / f"rank-{rank}.safetensors"
                if said["writers"] != first["writers"] or said["sha256"] != sha256_of_file(path):
                    raise TrainingError("a file of it is damaged", where=path)
                for name, values in load_file(path).items():
                    start, size = said["starts"][name], said["sizes"][name]
                    whole = tensors.setdefault(name, torch.empty(size))
                    whole[start : start + len(values)] = values
                    filled[name] = filled.get(name, 0) + len(values)
            short = [name for name, whole in tensors.items() if filled[name] != len(whole)]
            if short:
                raise TrainingError(f"{short[0]} is not whole", where=place)
        except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as problem:
            if isinstance(problem, TrainingError):
                raise
            raise TrainingError(f"not readable ({problem})", where=place) from None
        return Snapshot(step, tensors, first["record"])

    def prune(self) -> None:
        """Keep the newest `KEPT` complete checkpoints, and whatever is newer than them."""
        complete = [step for step in sorted(self._steps()) if self._is_complete(step)]
        for step in self._steps():
            if len(complete) >= KEPT and step < complete[-KEPT]:
                remove_tree(self._place(step))

    def forget(self, step: int) -> None:
        """Remove a checkpoint that not every process could write."""
        remove_tree(self._place(step))

    def forget_unless(self, step: int | None) -> None:
        """Remove everything newer than a step, or everything: what is damaged, or was never completed."""
        for other in self._steps():
            if step is None or other > step:
                remove_tree(self._place(other))

    def remove(self) -> None:
        remove_tree(self.folder)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return [int(match[1]) for path in found if (match := _STEP.fullmatch(path.name))]

    def _is_complete(self, step: int) -> bool:
        place = self._place(step)
        try:
            writers = read_json(place / "rank-0.json")["writers"]
        except (BrainAgeError, KeyError, TypeError):
            return False
        return all((place / f"rank-{rank}.json").is_file() for rank in range(writers))


def _write_flat(file: BinaryIO, pieces: Mapping[str, Piece], digest: Any) -> None:
    """Write pieces as a safetensors file.

    The format is a length, a JSON header and the tensors' bytes. Written tensor by tensor from where they
    lie, it takes no second copy in memory, and other threads go on meanwhile.
    """
    header, end = {}, 0
    for name, piece in pieces.items():
        begin, end = end, end + piece.values.numel() * 4
        header[name] = {"dtype": "F32", "shape": [piece.values.numel()], "data_offsets": [begin, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)  # the tensors begin at a multiple of eight
    parts: list[bytes | memoryview] = [len(said).to_bytes(8, "little"), said]
    parts += [piece.values.numpy().data for piece in pieces.values()]
    for part in parts:
        file.write(part)
        digest.update(part)
