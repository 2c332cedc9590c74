"""Proof that a store holds what was put into it: everything is read, everything is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_brainage.errors import StoreError
from hpc_brainage.modality import Modality
from hpc_brainage.scans import IDENTITY, scan_names
from hpc_brainage.store.array_metadata import expected_metadata, fields_of
from hpc_brainage.store.finish import content_hash
from hpc_brainage.store.marker import BUILD, MARKER, plan_key, plans_begun, read_record
from hpc_brainage.store.place import Place
from hpc_brainage.store.plan import Plan
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import STATISTICS, arrays_of, cut, shard_key
from hpc_brainage.store.shards import FLOAT
from hpc_brainage.store.statistics import Statistics
from hpc_brainage.store.survey import checksum, survey

Progress = Callable[[int, int], None]
_OTHER_VALUES = "the values do not have the checksum they had"
_ABSENT_VALUES = "there are values, though the scan is marked absent"
_CONVERT_AGAIN = "convert the cohort again with --overwrite"


@dataclass(frozen=True)
class Damage:
    """Something in a store that is not as it was written.

    Parameters
    ----------
    key : the modality ("smri/desikan"), the array ("age") or the file that it concerns.
    problem : what is wrong.
    scans : the scans whose data cannot be trusted because of it, as `sub-01_ses-2`.
    to_do : what a user does about it.
    """

    key: str
    problem: str
    scans: tuple[str, ...] = ()
    to_do: str = _CONVERT_AGAIN

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}" + (f" ({', '.join(self.scans)})" if self.scans else "")


_ADDITION = Damage(
    BUILD,
    "an addition of scans was begun and has not finished, or is at work right now; the scans that the "
    "store had are not affected",
    to_do="run the same `brainage convert --append` command again: it goes on where it stopped",
)
_NOT_TIDIED_UP = Damage(
    BUILD,
    "a conversion ended before it had tidied up; the store is not affected",
    to_do="run the same `brainage convert` command again",
)


def verify(path: Place | Path | str, progress: Progress | None = None) -> list[Damage]:
    """Read a whole store and list what is wrong with it; an empty list is the proof.

    Compared are the checksum of every scan, presence against data, identities, the statistics computed
    anew, the hash over the content (refusals too), the metadata of every array against what the format
    says that it must be, and the files on disk against those that belong there.

    Parameters
    ----------
    progress : called with the measurements (scan x modality) that were read, and all of them.

    Raises
    ------
    StoreError : the path cannot be opened as a store at all, or holds another one by now.
    """
    store = Store.open(path)
    damage = _damage_of_all(store, progress or (lambda done, total: None))
    if damage and not store.is_current:
        raise StoreError(
            "the store was changed while it was verified",
            where=store.path,
            hint="verify it again once nobody adds scans to it or converts it anew",
        )
    return damage


def _damage_of_all(store: Store, progress: Progress) -> list[Damage]:
    damage = list(_metadata(store))
    try:
        modalities, names = store.modalities, scan_names(store.scans)
    except StoreError as problem:  # the names of features or scans are gone: nothing else has a meaning
        return damage or [_damage_of("names", problem)]
    damage += _identities(store, names)
    total = store.n_scans * len(modalities)
    for number, modality in enumerate(modalities.values()):
        before = number * store.n_scans

        def read(rows: int, before: int = before) -> None:
            progress(before + rows, total)

        damage += _as_far_as_possible(modality.key, _modality(store, modality, names, read))
    damage += _as_far_as_possible("metadata", _as_the_schema_has_them(store))
    damage += _as_far_as_possible("files", _orphans(store))
    damage += _as_far_as_possible("content", _content(store))
    return damage


def _as_far_as_possible(key: str, found: Iterator[Damage]) -> Iterator[Damage]:
    """What is found until something that the search itself needs turns out to be damaged."""
    try:
        yield from found
    except StoreError as problem:
        yield _damage_of(key, problem)
    except OSError as problem:
        yield Damage(key, f"cannot be read ({problem.strerror or problem})")


def _metadata(store: Store) -> Iterator[Damage]:
    """Every array described twice in the same words, and every small array readable."""
    described = store.metadata["consolidated_metadata"]["metadata"]
    data = {entry["array"] for entry in store.attributes["modalities"].values()}
    for name, metadata in described.items():
        try:
            if read_record(store.place, f"{name}/{MARKER}") != metadata:
                yield Damage(name, f"{name}/{MARKER} is not what the root {MARKER} says")
            if name not in data:
                store.small_array(name)
        except StoreError as problem:
            yield _damage_of(name, problem)


def _as_the_schema_has_them(store: Store) -> Iterator[Damage]:
    """The metadata of every array, against the store's description of itself."""
    described = store.metadata["consolidated_metadata"]["metadata"]
    for name, expected in expected_metadata(store).items():
        if name in described:
            found = fields_of(described[name])
            for field, value in expected.items():
                if found[field] != value:
                    yield Damage(name, f"its {field} is {found[field]}, and should be {value}")


def _identities(store: Store, names: Sequence[str]) -> Iterator[Damage]:
    if len(names) != store.n_scans:
        yield Damage("participant_id", f"{len(names)} scans, where the store says {store.n_scans}")
    twice = store.scans.duplicated(list(IDENTITY)).to_numpy()
    if twice.any():
        repeated = tuple(name for name, again in zip(names, twice, strict=True) if again)
        yield Damage("participant_id", "more than one scan has the same identity", repeated)


def _modality(
    store: Store, modality: Modality, names: Sequence[str], read: Callable[[int], None]
) -> Iterator[Damage]:
    key, layout = modality.key, store.layout(modality.key)
    present, expected = store.present(key), store.checksums(key)
    if not np.array_equal(present, expected != ""):
        yield Damage(key, "presence and checksums do not agree", _named(names, present != (expected != "")))
    if present.sum() != store.attributes["modalities"][key]["present"]:
        yield Damage(key, f"{present.sum()} scans are present, the description says otherwise")

    read_chunks = _features if modality.kind == "features" else _images
    statistics = Statistics.nothing(modality.shape if modality.kind == "features" else ())
    whole = True
    for number, rows in enumerate(cut(store.n_scans, layout.chunk_scans)):
        here = present[rows.start : rows.stop]
        if here.any():
            try:
                found, problems = read_chunks(store, modality, number, rows, expected)
            except StoreError as problem:
                whole = False
                mask = np.zeros(store.n_scans, dtype=bool)
                mask[rows.start : rows.stop] = here
                yield Damage(key, _short(key, problem), _named(names, mask))
            else:
                statistics = statistics.merge(found)
                yield from (Damage(key, problem, (names[row],)) for row, problem in problems)
        elif _holds(store, key, number):
            yield Damage(key, _ABSENT_VALUES, tuple(names[rows.start : rows.stop]))
        read(rows.stop)
    if whole:
        yield from _statistics(key, statistics, store.statistics(key))


Found = tuple[Statistics, list[tuple[int, str]]]
"""The statistics of a chunk, and what is wrong with which of its rows."""


def _features(store: Store, modality: Modality, number: int, rows: range, expected: np.ndarray) -> Found:
    block = np.empty((store.layout(modality.key).chunk_scans, *modality.shape), dtype=FLOAT)
    store.read_chunk(modality.key, number, block)
    problems = []
    for row in rows:
        values = block[row - rows.start]
        if expected[row] and checksum(values) != expected[row]:
            problems.append((row, _OTHER_VALUES))
        elif not expected[row] and not np.isnan(values).all():
            problems.append((row, _ABSENT_VALUES))
    return Statistics.of_features(block[: len(rows)][expected[rows.start : rows.stop] != ""]), problems


def _images(store: Store, modality: Modality, number: int, rows: range, expected: np.ndarray) -> Found:
    slope, offset = store.scales(modality.key)[rows.start]
    found, statistics = survey(store.numbers(modality.key, number), slope, offset)
    return statistics, [] if found == expected[rows.start] else [(rows.start, _OTHER_VALUES)]


def _holds(store: Store, key: str, chunk: int) -> bool:
    """Whether a chunk is there; in a shard that is damaged, the chunks that are wanted tell of it."""
    try:
        return store.has_chunk(key, chunk)
    except StoreError:
        return False


def _statistics(key: str, found: Statistics, stored: Statistics) -> Iterator[Damage]:
    """Counts and extremes are exact; sums may be rounded differently on another processor."""
    largest = np.fmax(np.abs(found.min), np.abs(found.max))
    rounding = {"mean": 1e-12 * largest, "m2": 1e-9 * found.m2 + 1e-18 * found.count * largest**2}
    for name in STATISTICS:
        ours, theirs = getattr(found, name), getattr(stored, name)
        counted = (found.count > 0) | (name == "count")
        differ = ~(np.abs(ours - theirs) <= rounding.get(name, 0.0)) & counted
        unlike = np.isnan(theirs.astype(np.float64)) != np.isnan(ours.astype(np.float64))
        if (differ | unlike).any():
            yield Damage(key, f"the stored {name} is not that of the data")


def _orphans(store: Store) -> Iterator[Damage]:
    described = store.metadata["consolidated_metadata"]["metadata"]
    belongs = store.files()
    arrays = {
        name
        for modality in store.modalities.values()
        for name in arrays_of(modality, store.encoding(modality.key))
    }
    arrays |= {column.array for column in store.columns}
    for name in sorted(arrays ^ set(described)):
        yield Damage(name, "an array too many, or one too few")
    found = set(store.place.files())
    at_work = {name for name in found if name.startswith(f"{BUILD}/")}
    if at_work:
        additions = [plan for plan in _plans_begun(store) if plan.extends is not None]
        yield _ADDITION if additions else _NOT_TIDIED_UP
        for plan in additions:
            at_work |= {
                shard_key(planned.modality, rows.start // planned.layout.shard_scans)
                for planned in plan.modalities
                for part in range(len(plan.parts))
                for rows in plan.shards(part, planned)
            }
    for name in sorted(found - belongs - at_work):
        yield Damage(name, "the file does not belong to the store")
    for name in sorted(belongs - found):
        yield Damage(name, "the file is missing")


def _plans_begun(store: Store) -> list[Plan]:
    return [Plan.from_record(read_record(store.place, plan_key(work))) for work in plans_begun(store.place)]


def _content(store: Store) -> Iterator[Damage]:
    checksums = {key: store.checksums(key).tolist() for key in store.modalities}
    refused = {key: store.refused(key).tolist() for key in store.modalities}
    found = content_hash(store.columns, list(store.modalities.values()), checksums, refused)
    if found != store.content_sha256:
        yield Damage(
            "content", "people, names, checksums and refusals are not those that the store was made with"
        )


def _named(names: Sequence[str], mask: np.ndarray) -> tuple[str, ...]:
    return tuple(names[row] for row in np.flatnonzero(mask).tolist())


def _damage_of(key: str, problem: StoreError) -> Damage:
    return Damage(key, _short(key, problem))


def _short(key: str, problem: StoreError) -> str:
    return problem.what.removeprefix(f"{key} is damaged: ")
