"""`--participant-label`: only these participants, of whatever source."""

from __future__ import annotations

from collections.abc import Sequence

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.errors import UsageError, nearest


def participant_labels(said: Sequence[str] | None) -> tuple[str, ...] | None:
    """`["sub-01,02", "03"]` as ("01", "02", "03"); None if nothing was said.

    A label is text: 01 and 1 are two people.

    Raises
    ------
    UsageError : a label is empty.
    """
    if said is None:
        return None
    labels = [label.strip().removeprefix("sub-") for text in said for label in text.split(",")]
    if not labels or "" in labels:
        raise UsageError(
            "a participant's label is empty",
            where=f"--participant-label {','.join(said)}",
            expected="as in 01,02 or sub-01,sub-02",
        )
    return tuple(dict.fromkeys(labels))


def _check_labels(cohort: Cohort, labels: tuple[str, ...]) -> None:
    """Raise `UsageError` for a label that nobody has, not even somebody who was refused."""
    known = set(cohort.scans["participant_id"])
    known |= {refusal.participant_id for refusal in cohort.account.refusals}
    known |= {who for source in cohort.account.sources for who, _, _ in source.unmeasured}
    if strangers := [label for label in labels if label not in known]:
        raise UsageError(
            f"nobody has the label {listed(strangers, 3)}",
            where=f"--participant-label {listed(labels, 3)}",
            expected="labels as the source spells them; leading zeros count",
            hint=nearest(strangers[0], known),
        )


def only_participants(cohort: Cohort, labels: tuple[str, ...] | None) -> Cohort:
    """Only the scans of these participants; the rest is noted, and its refusals are counted.

    Raises
    ------
    UsageError : nobody has one of the labels, or none of these people has a scan that can be used.
    """
    if labels is None:
        return cohort
    _check_labels(cohort, labels)
    refusals = cohort.account.refusals
    chosen = cohort.scans["participant_id"].isin(labels).to_numpy()
    kept = tuple(refusal for refusal in refusals if refusal.participant_id in labels)
    if not chosen.any():
        raise UsageError(
            "none of these participants has a scan that can be used",
            where=f"--participant-label {listed(labels, 3)}",
            hint=f"{kept[0].scan} was refused because {kept[0].reason}" if kept else None,
        )
    return cohort.only(chosen, kept, "--participant-label")
