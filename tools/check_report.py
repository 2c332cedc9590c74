"""How often the report's checks ask for care of a cohort that the model fits, and of one that it does not.

    python tools/check_report.py [--people 30,60,165,300] [--draws 200] [--seed 0]

The truth is planted: ages as in a study of children and young adults (gamma), gaps with an SD of 3 years
that are free of age, and intervals, z and p that hold. Then one thing is wrong at a time: everybody is 2
years older, gaps grow by 0.3 years a year, or of the intervals 80 % hold. A sound cohort should be asked
for care by each question in a twentieth of the draws at most.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from scipy.stats import norm

from hpc_brainage.evaluation.score_findings import score_findings

SD, COVERED = 3.0, 0.9
QUESTIONS = ("Is age out of the corrected gap?", "Are the gaps centred?", "Do the intervals hold?")
WRONG: dict[str, dict[str, float]] = {
    "nothing": {},
    "a shift of 2 years": {"shift": 2.0},
    "0.3 years a year": {"trend": 0.3},
    "80 % hold": {"covered": 0.8},
}
LINE = {"everyone": {"intercept": 0.0, "slope": 1.0, "n": 400, "r": None}}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--people", default="30,60,165,300")
    words.add_argument("--draws", type=int, default=200)
    words.add_argument("--seed", type=int, default=0)
    said = words.parse_args()
    print("people  wrong               " + "  ".join(f"{question:>34}" for question in QUESTIONS))
    for people in map(int, said.people.split(",")):
        for wrong, how in WRONG.items():
            draw = np.random.default_rng([said.seed, people])
            asked = np.mean([asks_for_care(cohort(draw, people, **how)) for _ in range(said.draws)], axis=0)
            print(f"{people:6d}  {wrong:20s}" + "  ".join(f"{share:34.1%}" for share in asked), flush=True)


def asks_for_care(table: pd.DataFrame) -> list[bool]:
    """Of each question, whether it is answered with care."""
    about = {"model": {"name": "planted", "sha256": "", "bias": LINE}, "summary": {}}
    checks = score_findings(table, about).tables["checks"].set_index("check")["judgement"]
    return [checks.get(question) == "care" for question in QUESTIONS]


def cohort(
    draw: np.random.Generator,
    people: int,
    *,
    shift: float = 0.0,
    trend: float = 0.0,
    covered: float = COVERED,
) -> pd.DataFrame:
    """Healthy people of five sites, whom the model fits but for `shift`, `trend` and `covered`; years."""
    age = 6 + draw.gamma(6, 2.5, people)
    gap = draw.normal(0, SD, people) + shift + trend * (age - age.mean())
    half = norm.ppf(0.5 + covered / 2) * SD
    columns = {
        "participant_id": [f"{number:05d}" for number in range(people)], "session_id": "", "run": "",
        "age": age, "sex": draw.choice(["F", "M"], people), "site": draw.choice(list("ABCDE"), people),
        "split": "", "diagnosis": "", "status": "scored", "reason": "", "brain_age": age + gap, "bag": gap,
        "bag_corrected": gap, "bias_method": "beheshti", "bias_fit": "400 held-out training scans (smri)",
        "in_training": False, "has_smri": True, "has_fmri": False, "site_seen": True, "flags": "",
        "model": "planted", "model_sha256": "", "store_sha256": "", "mahalanobis": 1.0,
        "pi90_lo": age + gap - half, "pi90_hi": age + gap + half, "bag_z": gap / SD,
        "bag_centile": 100 * norm.cdf(gap / SD), "p_accelerated": norm.sf(gap / SD),
    }  # fmt: skip
    table = pd.DataFrame(columns)
    return table.assign(age_in_training_range=pd.array([True] * people, dtype="boolean"))


if __name__ == "__main__":
    main()
