"""What the tables of `aparcstats2table` and `asegstats2table` have that other tables have not.

Their first column is headed `lh.aparc.area` or `Measure:volume` and names FreeSurfer's subjects; with
`--transpose` they lie on their side, a row for each region and a column for each subject.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from hpc_brainage.cohorts.columns import heads_freesurfer_table, usual_columns
from hpc_brainage.cohorts.feature_table import are_regions
from hpc_brainage.cohorts.freesurfer_names import scan_of_subject
from hpc_brainage.errors import CohortError


def freesurfer_table(frame: pd.DataFrame, source: str, known_ids: Collection[str] = ()) -> pd.DataFrame:
    """A table of FreeSurfer with a row for each scan, and its sessions told apart; others as they are.

    Parameters
    ----------
    frame : as `read_table` gives it, its first column as text.
    source : the table's name, for messages.
    known_ids : participants that the cohort knows.

    Raises
    ------
    CohortError : a table on its side that names a region or a subject twice, or a row without a name.
    """
    corner = str(frame.columns[0])
    if not heads_freesurfer_table(corner):
        return frame
    if are_regions(frame[corner]):
        frame = _upright(frame, corner, source)
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
