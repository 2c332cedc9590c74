"""`brainage inspect`: what is in a store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hpc_brainage.store.inspect import ModalitySummary, PeopleSummary

_SHOWN = 8


def inspect(
    store: Annotated[str, typer.Argument(help="The store.")],
    recipe: Annotated[
        bool,
        typer.Option("--recipe", help="Only how it was made, whole, as JSON: files with hashes, options."),
    ] = False,
) -> None:
    """Show who and what is in a store, and where it came from."""
    from hpc_brainage.cli.screen import account_notes, say, table
    from hpc_brainage.store.inspect import describe
    from hpc_brainage.store.reader import Store

    opened = Store.open(store)
    if recipe:
        typer.echo(json.dumps(opened.attributes["recipe"], indent=2))
        return
    found = describe(opened)
    say(f"{found.name}: format version {found.format_version}, content {found.content_sha256[:16]}")
    table("people", ("what", "values"), _people(found.people))
    table(
        "modalities",
        ("modality", "kind", ">shape", ">scans", ">refused", ">missing", ">stored", ">smaller by"),
        [_modality(modality) for modality in found.modalities],
    )
    for modality in found.modalities:
        for names, what in (
            (modality.empty_features, "have no value in any scan"),
            (modality.constant_features, "are the same in all scans"),
        ):
            if names:
                say(f"  · {modality.modality.key}: {len(names)} features {what}: {_some(names)}")
    account_notes(found.account.get("notes", []))
    say(f"parts: {found.parts} of up to {found.part_scans} scans")
    for line in _made_of(found.recipe):
        say(line)
    say(f"software: {', '.join(f'{name} {version}' for name, version in found.software.items())}")


def _made_of(recipe: dict[str, Any], what: str = "made of") -> list[str]:
    """A recipe in a few lines: the files by name, and what was said about them."""
    files: dict[str, list[str]] = {}
    for one in (recipe, *recipe.get("added", [])):
        names = list(dict.fromkeys(file["name"] for file in one.get("files", [])))
        counted = one.get("scan_files", {})
        counts = counted if isinstance(counted, dict) else {"": counted}
        names = [*(f"{n} files{f' of {name}' if name else ''}" for name, n in counts.items()), *names]
        files.setdefault(str(one.get("reader", "?")), []).extend(names)
    listed = "; ".join(f"{reader}: {_some(tuple(names))}" for reader, names in files.items())
    said = recipe.get("options", {}).items()
    options = ", ".join(f"{name} {value}" for name, value in said if value not in (None, "pearson"))
    lines = [f"{what}: {listed} (--recipe shows all)"]
    lines += [f"read with: {options}"] if options else []
    for appended in recipe.get("appended", []):
        lines += _made_of(appended, "added later")
    return lines


def _people(people: PeopleSummary) -> list[tuple[str, str]]:
    rows = [("scans", f"{people.scans} of {people.participants} people")]
    if people.without_data:
        rows.append(("without data", str(people.without_data)))
    if people.age_known:
        rows.append(
            (
                "age",
                f"{people.age_min:.1f} to {people.age_max:.1f} years, mean {people.age_mean:.1f},"
                f" SD {people.age_sd:.1f}; unknown for {people.scans - people.age_known}",
            )
        )
    else:
        rows.append(("age", "unknown"))
    for name, counts in (
        ("sex", people.sexes),
        ("site", people.sites),
        ("split", people.splits),
        ("diagnosis", people.diagnoses),
    ):
        known = {value or "unknown": n for value, n in counts.items()}
        if set(known) - {"unknown"}:
            shown = [f"{value} {n}" for value, n in list(known.items())[:_SHOWN]]
            more = f", ... {len(known)} in all" if len(known) > _SHOWN else ""
            rows.append((name, ", ".join(shown) + more))
    if people.further_columns:
        rows.append(("further columns", ", ".join(people.further_columns)))
    return rows


def _modality(m: ModalitySummary) -> tuple[object, ...]:
    shape = " x ".join(map(str, m.modality.shape))
    stored = f"{m.bytes_stored / 2**20:.1f} MiB"
    return (
        m.modality.key, m.modality.kind, shape, m.present, m.refused,
        f"{m.missing_share:.1%}", stored, f"{m.compression:.1f}x",
    )  # fmt: skip


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
