"""One name for one structure, whatever version of FreeSurfer spells it; and whose scan a subject is.

The newest spelling is kept, that of FreeSurfer 7:

==============================  ===============================  ====================================
kept                            older                            written by
==============================  ===============================  ====================================
`Left-Thalamus`                 `Left-Thalamus-Proper`           up to 6.0, `...-Proper*` by 7.0's LUT
`lhCerebralWhiteMatterVol`      `lhCorticalWhiteMatterVol`       up to 5.3
`EstimatedTotalIntraCranialVol` `IntraCranialVol`                up to 5.1
`lh_G_and_S_cingul-Ant_area`    `lh_G&S_cingul-Ant_area`         6.0 only
==============================  ===============================  ====================================

The atlas `DKTatlas40` of 5.3 is `DKTatlas` since 6.0; its regions have the same names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from hpc_brainage.cohorts.file_identity import Identity, bids_entities

# (what the older name looks like, the newest name, what the newest name looks like, the older name)
_RENAMED = tuple(
    (re.compile(older), new, re.compile(newest), old)
    for older, new, newest, old in (
        (
            r"(Left|Right)-Thalamus-Proper\*?",
            r"\1-Thalamus",
            r"(Left|Right)-Thalamus",
            r"\1-Thalamus-Proper",
        ),
        (
            r"(lh|rh|)CorticalWhiteMatterVol",
            r"\1CerebralWhiteMatterVol",
            r"(lh|rh|)CerebralWhiteMatterVol",
            r"\1CorticalWhiteMatterVol",
        ),
        (
            r"IntraCranialVol",
            r"EstimatedTotalIntraCranialVol",
            r"EstimatedTotalIntraCranialVol",
            r"IntraCranialVol",
        ),
        (r"([lr]h_[^&]+)&([^&]+)", r"\1_and_\2", r"([lr]h_.+?)_and_(.+)", r"\1&\2"),
    )
)


def newest_spelling(name: str) -> str:
    """The name that the newest FreeSurfer gives to the same structure; any other name as it is."""
    return next((older.sub(new, name) for older, new, _, _ in _RENAMED if older.fullmatch(name)), name)


def older_spelling(name: str) -> str:
    """The name that an older FreeSurfer gives to the same structure; any other name as it is."""
    return next((newest.sub(old, name) for _, _, newest, old in _RENAMED if newest.fullmatch(name)), name)


def newest_spellings(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of a table by their newest names, and those among `names` that were renamed.

    A column keeps its older name where the newest would then be there twice: such a table has both.
    """
    newest = [newest_spelling(name) for name in names]
    times = Counter(newest)
    kept = tuple(new if times[new] == 1 else name for name, new in zip(names, newest, strict=True))
    return kept, tuple(name for name, new in zip(names, kept, strict=True) if name != new)


def scan_of_subject(name: str, known_ids: Collection[str] = ()) -> Identity:
    """Participant, session and run of a FreeSurfer subject.

    `sub-01_ses-2` says them as BIDS does; any other name is that of the participant. A name that the
    cohort knows as a participant's is one, whatever it looks like. A subject of the longitudinal stream,
    `NAME.long.TEMPLATE`, is the scan NAME.
    """
    name = name.split(".long.")[0]
    plain = name.removeprefix("sub-")
    said = bids_entities(name)
    if plain in known_ids or not said:
        return plain, "", ""
    return said["sub"], said.get("ses", ""), said.get("run", "")
