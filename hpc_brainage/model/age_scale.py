"""The scale on which age is regressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class AgeScale:
    """Years to the number that is regressed and back: t = (f(age) - center) / spread.

    f is the identity ("years") or log(age + 1) ("log"), on which the error of a six-year-old and of a
    sixty-year-old weigh in proportion to their ages. Center and spread come from the training people.
    """

    kind: Literal["years", "log"]
    center: float
    spread: float

    @classmethod
    def fit(cls, age_years: torch.Tensor, kind: Literal["years", "log"]) -> AgeScale:
        raw = torch.log1p(age_years.double()) if kind == "log" else age_years.double()
        return cls(kind, float(raw.mean()), max(float(raw.std(correction=0)), 1e-6))

    def to_scale(self, age_years: torch.Tensor) -> torch.Tensor:
        raw = torch.log1p(age_years) if self.kind == "log" else age_years
        return (raw - self.center) / self.spread

    def to_years(self, t: torch.Tensor) -> torch.Tensor:
        raw = t * self.spread + self.center
        return torch.expm1(raw) if self.kind == "log" else raw

    def sd_in_years(self, sd_of_t: torch.Tensor, age_years: torch.Tensor) -> torch.Tensor:
        """A standard deviation of t around an age, in years, to first order: |dy/dt| times it."""
        sd = sd_of_t * self.spread
        return sd * (age_years + 1) if self.kind == "log" else sd
