"""The account of a conversion: where every scan of every source went, as a table.

Columns: `participant_id`, `session_id`, `run`, `source`, `status`, `reason`. The status is

- `converted`: the scan is in the store; `source` lists the modalities it has;
- `missing`: the scan has a row in the store but not a single measurement;
- `refused`: what `source` had for the scan was not taken, and why;
- `unmatched`: `source` has the scan, the cohort does not know it;
- `unmeasured`: `source` names the person or scan, and no source has a measurement of it.

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
from hpc_brainage.files import sweep, write_text
from hpc_brainage.store.people import scan_identities
from hpc_brainage.store.reader import Store

COLUMNS = ("participant_id", "session_id", "run", "source", "status", "reason")


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
                "unmeasured": len(source.unmeasured),
            }
            for source in account.sources
        ],
        "refused": len(account.refusals),
        "notes": list(account.notes),
    }


def account_of(cohort: Cohort, store: Store) -> Account:
    """The cohort's account and, after it, what was refused while its scans were loaded."""
    names = scan_identities(store.scans)
    refusals = tuple(
        Refusal(*names[row], source=key, reason=reasons[row])
        for key in store.modalities
        for reasons in [store.refused(key)]
        for row in np.flatnonzero(reasons != "")
    )
    return cohort.account + Account(refusals=refusals)


def account_path(store: Path) -> Path:
    """`NAME.account.tsv` beside the store `NAME.zarr`; `NAME_account.tsv` beside a store `NAME`."""
    if store.suffix == ".zarr":
        return store.with_suffix(".account.tsv")
    return store.with_name(f"{store.name}_account.tsv")


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
        (*scan, source.source, status, reason)
        for source in account.sources
        for scans_there, status, reason in (
            (source.only_here, "unmatched", "the cohort does not know this scan"),
            (source.unmeasured, "unmeasured", "no source has a measurement of this scan"),
        )
        for scan in scans_there
    ]
    sweep(path)
    write_text(path, "".join("\t".join(map(_cell, line)) + "\n" for line in lines))


def _cell(text: str) -> str:
    flat = re.sub(r"[\t\r\n]+", " ", text).encode(errors="backslashreplace").decode()
    return f"'{flat}" if flat[:1] in ("=", "+", "-", "@") else flat
