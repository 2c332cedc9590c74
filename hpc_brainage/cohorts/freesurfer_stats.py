"""One statistics file of FreeSurfer (`aseg.stats`, `lh.aparc.stats`, ...), checked to be whole.

Versions 5.1 to 7 and FastSurfer write the same kind of file: a header of `# Measure` lines and
`# ColHeaders`, then one row of blank-separated fields for each structure.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_brainage.errors import ScanRefused

LEAST_VERTICES = 0.995
"""The regions of a hemisphere hold all vertices that its header counts, but for a few at their rims."""

_LARGEST_BYTES = 1 << 23
_LARGEST_VALUE = float(np.finfo(np.float32).max)
_STRUCTURE = "StructName"


@dataclass(frozen=True)
class StatsFile:
    """What stands in a statistics file.

    Parameters
    ----------
    measures : short name ("eTIV", "MeanThickness") -> value of the `# Measure` lines, in their order.
    structures : names of the rows, as spelled.
    columns : ColHeader ("SurfArea", "Volume_mm3") -> shape (structures,), float64.
    sha256 : of the file.
    """

    measures: dict[str, float]
    structures: tuple[str, ...]
    columns: dict[str, np.ndarray]
    sha256: str


def read_stats(path: Path, wanted: tuple[str, ...]) -> StatsFile:
    """Read a statistics file that has the columns `wanted`; no `wanted`, only the `# Measure` lines.

    A value that FreeSurfer could not compute ("nan") is NaN.

    Raises
    ------
    ScanRefused : the file is missing, no such file, or cut off: a row is short, the last line has no
        end, fewer rows than `# NRows` says, or regions that do not cover the hemisphere.
    """
    raw = _content(path)
    lines = raw.decode("latin-1").split("\n")
    measures: dict[str, float] = {}
    headers: list[str] = []
    said_rows: int | None = None
    rows: dict[int, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if line.startswith("# Measure"):
            name, value = _measure(line, path, number)
            measures.setdefault(name, value)
        elif line.startswith("# ColHeaders"):
            headers = line.split()[2:]
        elif line.startswith("# NRows"):
            said_rows = _number_of_rows(line, path, number)
        elif wanted and line.strip() and not line.startswith("#"):
            fields = line.split()
            if len(fields) != len(headers):
                raise _refused(path, number, f"{len(fields)} fields where {len(headers)} columns are named")
            rows[number] = fields
    if lines[-1] != "":
        raise _refused(path, len(lines), "the file is cut off: its last line has no end")
    if not wanted:
        if not measures:
            raise _refused(path, len(lines), "no line begins with '# Measure'")
        return StatsFile(measures, (), {}, hashlib.sha256(raw).hexdigest())
    missing = [name for name in (_STRUCTURE, *wanted) if name not in headers]
    if missing:
        raise _refused(path, len(lines), f"no statistics of FreeSurfer: no column {missing[0]}")
    if not rows:
        raise _refused(path, len(lines), "the file has no rows")
    if said_rows is not None and said_rows != len(rows):
        raise _refused(path, len(lines), f"{len(rows)} rows where the header says {said_rows}")
    structures = tuple(fields[headers.index(_STRUCTURE)] for fields in rows.values())
    twice = next((name for name in structures if structures.count(name) > 1), None)
    if twice is not None:
        raise _refused(path, len(lines), f"two rows are named {twice}")
    columns = {
        name: _column({row: fields[headers.index(name)] for row, fields in rows.items()}, path)
        for name in wanted
    }
    _check_cover(columns, measures, structures, path, len(lines))
    return StatsFile(measures, structures, columns, hashlib.sha256(raw).hexdigest())


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ScanRefused(f"{path.stat().st_size} bytes are too many for statistics", where=path.name)
        return path.read_bytes()
    except FileNotFoundError:
        raise ScanRefused("the file is missing", where=path.name) from None
    except OSError as problem:
        raise ScanRefused(f"the file cannot be read ({problem.strerror})", where=path.name) from None


def _measure(line: str, path: Path, number: int) -> tuple[str, float]:
    """`# Measure Cortex, MeanThickness, Mean Thickness, 2.5, mm` -> MeanThickness, 2.5.

    Counted from the right, since 6.0 forgets the comma after CortexVol.
    """
    fields = [field.strip() for field in line.removeprefix("# Measure").split(",")]
    if len(fields) < 4 or not fields[1]:
        raise _refused(path, number, "a measure without name, value and unit")
    return fields[1].split()[0], _value(fields[-2], path, number)


def _value(text: str, path: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _refused(path, number, f"{text!r} is not a number") from None
    if abs(value) > _LARGEST_VALUE:
        raise _refused(path, number, f"the value {text} is infinite")
    return value


def _number_of_rows(line: str, path: Path, number: int) -> int:
    said = re.fullmatch(r"# NRows\s+(\d+)\s*", line)
    if said is None:
        raise _refused(path, number, "the number of rows is not a number")
    return int(said[1])


def _column(texts: dict[int, str], path: Path) -> np.ndarray:
    """The values of a column, shape (rows,), out of line number -> text."""
    try:
        values = np.array(list(texts.values()), dtype=np.float64)
        usable = not (np.abs(values) > _LARGEST_VALUE).any()
    except ValueError:
        usable = False
    if not usable:  # then one by one, to name the line
        values = np.array([_value(text, path, number) for number, text in texts.items()])
    return values


def _check_cover(
    columns: dict[str, np.ndarray],
    measures: dict[str, float],
    structures: tuple[str, ...],
    path: Path,
    number: int,
) -> None:
    """A cortical file that ends between two rows looks whole, but its vertices are missing."""
    total = measures.get("NumVert", 0.0)
    if "NumVert" not in columns or not total > 0:
        return
    covered = float(columns["NumVert"].sum())
    if not covered >= LEAST_VERTICES * total:
        raise _refused(
            path,
            number,
            f"its {len(structures)} regions, the last of them {structures[-1]}, hold {covered:.0f} of "
            f"{total:.0f} vertices: the file is cut off",
        )


def _refused(path: Path, number: int, what: str) -> ScanRefused:
    return ScanRefused(what, where=f"{path.name}, line {number}")
