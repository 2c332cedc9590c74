"""Whose scan a file is, from its name: as BIDS spells it, by known participants, or by what differs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.errors import CohortError
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, scan_name

Identity = tuple[str, str, str]

# SPM and CAT12 put what they did before the name: mwp1sub-01_T1w.nii
_BIDS = re.compile(r"(?:[a-z0-9]{1,8})?(?=sub-[^_])")

# What images of one person are called apart by; the later ones are how SPM and CAT12 begin names.
_KINDS = {
    "t1", "t1w", "t2", "t2w", "pd", "pdw", "flair", "gm", "wm", "csf", "brain", "head", "mask",
    "p1", "p2", "p3", "mwp1", "mwp2", "mwp3", "c1", "c2", "c3",
}  # fmt: skip


def bids_entities(name: str) -> dict[str, str]:
    """`sub-01_ses-2_desc-preproc_T1w` -> {"sub": "01", "ses": "2", "desc": "preproc"}.

    Empty if the name does not begin with `sub-`, but for what SPM puts before it.
    """
    start = _BIDS.match(name)
    if start is None:
        return {}
    return dict(part.split("-", 1) for part in name[start.end() :].split("_") if "-" in part)


def identities_of_names(names: Sequence[str], known_ids: Collection[str] | None = None) -> list[Identity]:
    """Participant, session and run of each file, by its name without the endings of its format.

    A BIDS name says them. Otherwise the participant is the longest of the known ids that the name is,
    or begins with before a `_`, `.` or `-`; and where none is, the name without the ending that all
    these files share.
    """
    known = set(known_ids or ())
    shared = _shared_ending([name for name in names if not bids_entities(name)])
    result = []
    for name in names:
        if bids := bids_entities(name):
            result.append((bids["sub"], bids.get("ses", ""), bids.get("run", "")))
        else:
            result.append((_known_start(name, known) or name.removesuffix(shared), "", ""))
    return result


def identities_of_files(
    files: Sequence[Path], stems: Sequence[str], known_ids: Collection[str] | None = None
) -> list[Identity]:
    """As `identities_of_names`; where all files are called the same, their folders tell them apart.

    FreeSurfer names the image of every subject alike, and its folder after the subject:
    `subjects/bert/mri/norm.mgz`.
    """
    if len(files) > 1 and len(set(stems)) == 1 and not bids_entities(stems[0]):
        common = os.path.commonpath([path.parent for path in files])
        folders = [(*path.parent.relative_to(common).parts, path.parent.name)[0] for path in files]
        return identities_of_names(folders, known_ids)
    return identities_of_names(stems, known_ids)


def refuse_repeated(files: Sequence[Path], identities: Sequence[Identity], pattern: str) -> None:
    """Raise `CohortError` if two files are the same scan; `pattern` is a glob that would choose."""
    first: dict[Identity, Path] = {}
    for path, identity in zip(files, identities, strict=True):
        if identity in first:
            raise CohortError(
                f"two files are the same scan, {scan_name(*identity)}",
                where=f"{first[identity].name} and {path.name}",
                expected="one file per participant, session and run",
                hint=f"choose one kind of file with a glob, as in {pattern!r}",
            )
        first[identity] = path


def told_apart_by_kind(stems: Sequence[str]) -> list[str]:
    """Names that are one name but for a word for a kind of image, as `gm`, `t1` and `wm`: one person's?"""
    groups: dict[tuple[str, ...], list[str]] = {}
    for stem in stems:
        words = re.split(r"[_.\-]", stem.lower())
        groups.setdefault(tuple("*" if word in _KINDS else word for word in words), []).append(stem)
    return [stem for group in groups.values() if len(group) > 1 for stem in group]


def scans_of(identities: Sequence[Identity]) -> pd.DataFrame:
    """A table of scans of which nothing is known but whose they are."""
    scans = pd.DataFrame(identities, columns=list(IDENTITY), dtype=object)
    scans["age"] = np.full(len(scans), np.nan)
    scans["sex"] = "U"
    return scans.reindex(columns=list(SCAN_COLUMNS), fill_value="")


def _known_start(name: str, known: Collection[str]) -> str | None:
    ends = [len(name), *(place for place in range(len(name) - 1, 0, -1) if name[place] in "_.-")]
    return next((name[:end] for end in ends if name[:end] in known), None)


def _shared_ending(stems: Sequence[str]) -> str:
    """The ending that all names share, from a separator on, so that no part of an id is cut off."""
    if len(stems) < 2:
        return ""
    shared = os.path.commonprefix([name[::-1] for name in stems])[::-1]  # noqa: RUF071 - of letters
    start = re.search(r"[_.-]", shared)
    return shared[start.start() :] if start and shared not in stems else ""
