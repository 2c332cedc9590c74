"""Who the local controls of a site calibration are: scored by this model, and nobody of the study.

Whoever is in both gives the site's offset with the gap that it is taken from, and looks healthier for it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.scans import scan_names
from hpc_brainage.scoring.same_scans import Pairs, same_scans
from hpc_brainage.scoring.saved import SavedScores

_SHOWN = 3
_HINT = "leave them out with --where, or calibrate with fewer controls"


def check_controls(
    local: SavedScores, scans: pd.DataFrame, *, model_sha256: str, store_sha256: str
) -> None:
    """Make sure that the local controls are of this model, and are not among those to be scored.

    Parameters
    ----------
    local : the score table of the controls.
    scans : scan table of who is to be scored, of the store `store_sha256`.

    Raises
    ------
    ScoringError : the controls were scored by another model.
    UsageError : one of them is to be scored, too.
    """
    if local.one("model_sha256") != model_sha256:
        raise ScoringError(
            "the local controls were scored by another model",
            where=local.name,
            expected=f"model {model_sha256[:12]}",
            hint="score them with the model that scores the others",
        )
    keys = ["participant_id"] if local.one("store_sha256") == store_sha256 else ["participant_id", "site"]
    theirs = set(local.table[keys].itertuples(index=False, name=None))
    both = np.array([own in theirs for own in scans[keys].itertuples(index=False, name=None)], dtype=bool)
    if both.any():
        raise UsageError(
            f"{int(both.sum())} of the local controls are also to be scored",
            where=f"{local.name}: {', '.join(scan_names(scans[both].head(_SHOWN)))}",
            expected="other people: their site's offset would be their own gap",
            hint=_HINT,
        )


def usable_controls(local: SavedScores, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The local controls that a site is calibrated with, one row for each person, and what to mind of them.

    Parameters
    ----------
    table : the score table of the study.

    Raises
    ------
    ScoringError : none of them can be used.
    UsageError : one of them is also among the scored, under another name.
    """
    controls = local.scored
    controls = controls[np.isfinite(controls["age"]) & ~controls["in_training"].astype(bool)]
    again = controls["participant_id"].duplicated()
    notes = []
    if unused := len(local.table) - len(controls) + int(again.sum()):
        notes.append(
            f"{unused} of {len(local.table)} local controls are not used: not scored, of unknown age, in"
            " the model's training, or a further scan of a person"
        )
    controls = controls[~again].reset_index(drop=True)
    if controls.empty:
        raise ScoringError(
            "none of the local controls can be used",
            where=f"{local.name}: {notes[0]}",
            expected="scored people of known age who are not in the model's training",
            hint="score controls of the same sites whose ages the store knows",
        )
    notes += _others_than(table[table["status"] == "scored"], controls, local.name)
    if (kinds := sorted(set(controls["diagnosis"]) - {""})) and len(kinds) > 1:
        notes.append(f"the local controls have several diagnoses: {', '.join(kinds)}")
    return controls, notes


def _others_than(scored: pd.DataFrame, controls: pd.DataFrame, name: str) -> list[str]:
    """Refuse controls whose scan is among the scored under another name; say where it may be chance."""
    pairs = same_scans(controls, scored)
    sure = pairs.sure

    def said(chosen: Pairs) -> tuple[int, str]:
        who, whose = (
            t["participant_id"].to_numpy(dtype=object)[rows]
            for t, rows in ((controls, chosen.first), (scored, chosen.second))
        )
        shown = [f"{a} is {b}" for a, b in zip(who[:_SHOWN], whose[:_SHOWN], strict=True)]
        return len(set(chosen.first.tolist())), ", ".join(shown)

    if sure.any():
        count, shown = said(pairs.take(sure))
        others = len(set(pairs.first[sure & ~pairs.near].tolist()))
        raise UsageError(
            f"{count} of the local controls are also scored, under another name",
            where=f"{name}: {shown}",
            expected="other people: more that the model says of these scans is the same than by chance"
            + (f"; the ages or sexes of {others} differ, so one table has them wrong" if others else ""),
            hint=_HINT,
        )
    perhaps = pairs.take(~pairs.contradicted)
    if not pairs.told_by and len(scored):
        return [
            "WARNING: whether local controls are also scored, under another name, cannot be told: too many"
            " people have the same numbers in these tables, or there are too few. Make sure that they are"
            " other people"
        ]
    if not len(perhaps.first):
        return []
    count, shown = said(perhaps)
    return [
        f"WARNING: {count} of the local controls may also be scored, under another name, for all numbers"
        f" that both tables have of the scans agree ({shown}); about {perhaps.by_chance.max():.2g} would by"
        " chance. Make sure that they are other people"
    ]
