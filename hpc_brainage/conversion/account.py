"""The account of a conversion: where every scan of every source went, as a table.

Columns: `participant_id`, `session_id`, `run`, `source`, `status`, `reason`. The status is

- `converted`: the scan is in the store; `source` lists the modalities it has;
- `missing`: the scan has a row in the store but not a single measurement;
- `refused`: what `source` had for the scan was not taken, and why;
- `unmatched`: `source` has the scan, the cohort does not know it.

One scan may have several lines. A cell that a spreadsheet would run as a formula is preceded by an
apostrophe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hpc_brainage.cohorts.cohort import Account, Cohort, Refusal
from hpc_brainage.files import write_text
from hpc_brainage.store.people import identities
from hpc_brainage.store.reader import Store

COLUMNS = ("participant_id", "session_id", "run", "source", "status", "reason")
_BIDS_NAME = re.compile(r"sub-(.+?)(?:_ses-(.+?))?(?:_run-(.+?))?")


def summary(account: Account) -> dict[str, Any]:
    """The account in numbers, JSON-able, as a store keeps it."""
    return {
        "sources": [
            {
                "source": source.source,
                "rows": source.rows,
                "matched": source.matched,
                "only_here": len(source.only_here),
                "without": source.without,
            }
            for source in account.sources
        ],
        "refused": len(account.refusals),
        "notes": list(account.notes),
    }


def account_of(cohort: Cohort, store: Store) -> Account:
    """The cohort's account and, after it, what was refused while its scans were loaded."""
    names = identities(store.scans)
    refusals = tuple(
        Refusal(*names[row], source=key, reason=reasons[row])
        for key in store.modalities
        for reasons in [store.refused(key)]
        for row in np.flatnonzero(reasons != "")
    )
    return cohort.account + Account(refusals=refusals)


def account_path(store: Path) -> Path:
    """`NAME.account.tsv` beside the store `NAME.zarr`."""
    return store.parent / f"{store.name.removesuffix('.zarr')}.account.tsv"


def write_account(path: Path, account: Account, scans: Iterable[tuple[tuple[str, str, str], str]]) -> None:
    """Write the account as TSV.

    `scans` gives, for each scan of the store, its identity and its modalities as one text.
    """
    lines: list[tuple[str, ...]] = [COLUMNS]
    for identity, modalities in scans:
        status = ("converted", "") if modalities else ("missing", "no modality has data for this scan")
        lines.append((*identity, modalities, *status))
    lines += [
        (
            refusal.participant_id,
            refusal.session_id,
            refusal.run,
            refusal.source,
            "refused",
            refusal.reason,
        )
        for refusal in account.refusals
    ]
    lines += [
        (*_identity(scan), source.source, "unmatched", "the cohort does not know this scan")
        for source in account.sources
        for scan in source.only_here
    ]
    write_text(path, "".join("\t".join(map(_cell, line)) + "\n" for line in lines))


def _identity(scan: str) -> tuple[str, str, str]:
    parts = _BIDS_NAME.fullmatch(scan)
    return (parts[1], parts[2] or "", parts[3] or "") if parts else (scan, "", "")


def _cell(text: str) -> str:
    flat = re.sub(r"[\t\r\n]+", " ", text)
    return f"'{flat}" if flat[:1] in ("=", "+", "-", "@") else flat
