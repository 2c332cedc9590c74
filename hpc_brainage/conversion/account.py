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
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpc_brainage.cohorts.cohort import Account, Cohort, Refusal
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
    refusals = tuple(
        Refusal(*store.identities[row], source=key, reason=reasons[row])
        for key in store.modalities
        for reasons in [store.refused(key)]
        for row in np.flatnonzero(reasons != "")
    )
    return cohort.account + Account(refusals=refusals)


def account_name(store: str) -> str:
    """`NAME.account.tsv` for the store `NAME.zarr` that it lies beside; `NAME_account.tsv` for `NAME`."""
    if store.endswith(".zarr"):
        return f"{store.removesuffix('.zarr')}.account.tsv"
    return f"{store}_account.tsv"


def lines_to_carry(store: Store) -> list[str]:
    """The lines of a store's account that an account of its scans alone would not have.

    What was refused while it was loaded stands in the store itself.
    """
    text = store.place.read_beside(account_name(store.place.name)) or ""
    cells = [line.split("\t") for line in text.splitlines()[1:]]
    return [
        "\t".join(line)
        for line in cells
        if len(line) == len(COLUMNS)
        and line[4] in ("refused", "unmatched", "unmeasured")
        and not (line[4] == "refused" and line[3] in store.modalities)
    ]


def write_account(store: Store, account: Account, carried: Sequence[str] = ()) -> None:
    """Write the account as TSV beside the store, with lines of an earlier one at its end."""
    present = np.stack([store.present(key) for key in store.modalities], axis=1)
    keys = np.array(list(store.modalities), dtype=object)
    scans = (
        (identity, ", ".join(keys[has])) for identity, has in zip(store.identities, present, strict=True)
    )
    lines: list[tuple[str, ...]] = [COLUMNS]
    for identity, modalities in scans:
        status = ("converted", "") if modalities else ("missing", "no modality has data for this scan")
        lines.append((*identity, modalities, *status))
    lines += [
        (
            *refusal.identity,
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
    rows = ["\t".join(map(_cell, line)) for line in lines]
    text = "".join(f"{row}\n" for row in dict.fromkeys([*rows, *carried]))
    name = account_name(store.place.name)
    if store.place.read_beside(name) != text:
        store.place.write_beside(name, text)


def _cell(text: str) -> str:
    flat = re.sub(r"[\t\r\n]+", " ", text).encode(errors="backslashreplace").decode()
    return f"'{flat}" if flat[:1] in ("=", "+", "-", "@") else flat
