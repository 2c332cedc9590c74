"""What the tables of `aparcstats2table` and `asegstats2table` have that other tables have not.

Their first column is headed `lh.aparc.area` or `Measure:volume` and names FreeSurfer's subjects; with
`--transpose` they lie on their side, a row for each region and a column for each subject.

The tables of every atlas say something of the whole hemisphere, and not quite the same: the mean
thickness is that of the vertices which the atlas labels. All call it `lh_MeanThickness_thickness`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import pandas as pd

from hpc_brainage.cohorts.columns import heads_freesurfer_table, usual_columns
from hpc_brainage.cohorts.feature_table import are_regions
from hpc_brainage.cohorts.freesurfer_names import scan_of_subject
from hpc_brainage.errors import CohortError

_CORTICAL = re.compile(r"[lr]h\.(.+)\.\w+")
_WHOLE_HEMISPHERE = re.compile(r"([lr]h)_(MeanThickness_thickness|WhiteSurfArea_area)")


def atlas_of(corner: str) -> str | None:
    """The atlas of a table of `aparcstats2table` by its first heading: "aparc.a2009s"; None of others."""
    found = _CORTICAL.fullmatch(corner.strip()) if heads_freesurfer_table(corner) else None
    return found[1] if found else None


def by_atlas_name(name: str, atlas: str) -> str:
    """`lh_aparc.a2009s_MeanThickness_thickness` of a whole hemisphere; the name of a region as it is."""
    return _WHOLE_HEMISPHERE.sub(rf"\1_{atlas}_\2", name)


def freesurfer_table(
    frame: pd.DataFrame, source: str, known_ids: Collection[str] = (), by_atlas: bool = False
) -> pd.DataFrame:
    """A table of FreeSurfer with a row for each scan, and its sessions told apart; others as they are.

    Parameters
    ----------
    frame : as `read_table` gives it, its first column as text.
    source : the table's name, for messages.
    known_ids : participants that the cohort knows.
    by_atlas : whether tables of other atlases become the same modality: what is said of a whole hemisphere
        then has the atlas in its name.

    Raises
    ------
    CohortError : a table on its side that names a region or a subject twice, or a row without a name.
    """
    corner = str(frame.columns[0])
    if not heads_freesurfer_table(corner):
        return frame
    if are_regions(frame[corner]):
        frame = _upright(frame, corner, source)
    if by_atlas and (atlas := atlas_of(corner)):
        frame = frame.rename(columns=lambda name: by_atlas_name(str(name), atlas))
    if not usual_columns([str(name) for name in frame.columns], ("session", "run")):
        scans = [scan_of_subject(str(subject), known_ids) for subject in frame[corner]]
        if any(session or run for _, session, run in scans):
            participants, sessions, runs = zip(*scans, strict=True)
            further = pd.DataFrame({"session_id": sessions, "run": runs}, index=frame.index, dtype=object)
            notes = frame.attrs["notes"]
            frame = pd.concat([frame.assign(**{corner: participants}), further], axis=1)
            frame.attrs["notes"] = notes
    return frame


def _upright(frame: pd.DataFrame, corner: str, source: str) -> pd.DataFrame:
    regions = frame[corner]
    if regions.isna().any():
        raise CohortError(f"row {int(regions.isna().argmax()) + 2} names no region", where=source)
    if regions.duplicated().any():
        raise CohortError(f"two rows are named {regions[regions.duplicated()].iloc[0]}", where=source)
    turned = frame.set_index(corner).T
    turned.columns.name = None
    turned = turned.rename_axis(corner).reset_index()
    turned = turned.infer_objects()
    note = f"{source}: the table lies on its side (a row for each region) and was turned"
    turned.attrs["notes"] = (*frame.attrs["notes"], note)
    return turned
