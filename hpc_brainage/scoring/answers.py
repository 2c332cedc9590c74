"""What a bundle's members say together of some scans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from hpc_brainage.modality import ROLES


@dataclass(frozen=True)
class Answers:
    """Answers about B scans: arrays (B,), and where it says *by role* one such array for each role.

    A number is the mean over the members that were asked, and NaN where there is none: because nobody was
    asked, because the scan lacks the modality, or because one of the members could not use the scan.

    Attributes
    ----------
    brain_age : years.
    brain_age_other_sex : had the person been of the other sex, years.
    brain_age_alone : by role, predicted from this modality alone, years.
    sd_aleatoric : root of the mean variance that the members predict, years; NaN where they predict none.
    sd_alone : by role, the same of `brain_age_alone`.
    sd_epistemic : over the members and over draws of their codes, years; NaN of one member.
    mahalanobis : distance of the codes from the training people's, per dimension; over the modalities.
    distance : by role, the same of one modality.
    log_error : by role, log of the error of rebuilding the modality from its own code.
    out_of_range : by role, how many features lie beyond the training people's.
    imputed : by role, int, features that took the training median; the most of any member.
    has : by role, bool, whether at least one member used the modality.
    members_used : int, members that `brain_age` is the mean of; 0 without one.
    usable : bool, whether every member that was asked could use the scan.
    """

    brain_age: np.ndarray
    brain_age_other_sex: np.ndarray
    brain_age_alone: dict[str, np.ndarray]
    sd_aleatoric: np.ndarray
    sd_alone: dict[str, np.ndarray]
    sd_epistemic: np.ndarray
    mahalanobis: np.ndarray
    distance: dict[str, np.ndarray]
    log_error: dict[str, np.ndarray]
    out_of_range: dict[str, np.ndarray]
    imputed: dict[str, np.ndarray]
    has: dict[str, np.ndarray]
    members_used: np.ndarray
    usable: np.ndarray

    @classmethod
    def none_yet(cls, scans: int) -> Answers:
        """Of scans that nobody was asked about."""

        def number() -> np.ndarray:
            return np.full(scans, np.nan)

        def by_role() -> dict[str, np.ndarray]:
            return {role: number() for role in ROLES}

        return cls(
            brain_age=number(),
            brain_age_other_sex=number(),
            brain_age_alone=by_role(),
            sd_aleatoric=number(),
            sd_alone=by_role(),
            sd_epistemic=number(),
            mahalanobis=number(),
            distance=by_role(),
            log_error=by_role(),
            out_of_range=by_role(),
            imputed={role: np.zeros(scans, dtype=np.int64) for role in ROLES},
            has={role: np.zeros(scans, dtype=bool) for role in ROLES},
            members_used=np.zeros(scans, dtype=np.int64),
            usable=np.zeros(scans, dtype=bool),
        )

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """The answers about several lots of scans, one after the other."""
        whole, first = cls.none_yet(sum(map(len, parts))), 0
        for part in parts:
            whole.put(np.arange(first, first + len(part)), part)
            first += len(part)
        return whole

    def __len__(self) -> int:
        return len(self.brain_age)

    def put(self, places: np.ndarray, said: Answers) -> None:
        """Write the answers about some of the scans into their places."""
        for mine, theirs in zip(self._arrays(), said._arrays(), strict=True):
            mine[places] = theirs

    @property
    def available(self) -> np.ndarray:
        """Which modalities each scan was scored from, as "smri+fmri"; "" for none."""
        return modalities_named(self.has)

    def columns(self) -> dict[str, np.ndarray]:
        """Those that stand in the score table, by the names that they have there."""
        found = {
            "brain_age": self.brain_age,
            "brain_age_other_sex": self.brain_age_other_sex,
            "brain_age_sd_aleatoric": self.sd_aleatoric,
            "brain_age_sd_epistemic": self.sd_epistemic,
            "mahalanobis": self.mahalanobis,
            "members_used": self.members_used,
        }
        for role in ROLES:
            found[f"brain_age_{role}_only"] = self.brain_age_alone[role]
            found[f"has_{role}"] = self.has[role]
            found[f"imputed_{role}"] = self.imputed[role]
            found[f"out_of_range_{role}"] = self.out_of_range[role]
        return found

    def _arrays(self) -> Iterator[np.ndarray]:
        """Every array; those by role in the order of the roles."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                yield from (value[role] for role in ROLES)
            else:
                yield value


def modalities_named(has: Mapping[str, np.ndarray]) -> np.ndarray:
    """The names of the modalities that each scan has, text (B,), as "smri+fmri"; "" for none.

    Parameters
    ----------
    has : by role, whether each scan has it, bool (B,).
    """
    number = sum(has[role].astype(int) << place for place, role in enumerate(ROLES))
    names = [
        "+".join(role for place, role in enumerate(ROLES) if combination >> place & 1)
        for combination in range(1 << len(ROLES))
    ]
    named: np.ndarray = np.array(names, dtype=object)[number]
    return named
