"""How the gaps of a scored cohort differ between groups of people: sexes, sites, diagnoses.

Groups are described as they are, and compared with age, age squared, sex, site and the set of modalities
that a scan was scored from as covariates (`group_effects`). What cannot be compared is said: groups of a
few people, groups that are sites by another name, groups whose ages hardly overlap or that were scored from
other modalities, and groups of which one was in the model's training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hpc_brainage.errors import UsageError, nearest
from hpc_brainage.evaluation.group_effects import FEWEST_IN_GROUP, LEVEL, Contrast, adjusted_differences
from hpc_brainage.evaluation.scored_accuracy import GAPS
from hpc_brainage.numerals import many, percent
from hpc_brainage.scoring.interpretation import available

MOST_GROUPS = 20
_CONTROLS = frozenset(
    ("c", "cn", "con", "control", "controls", "ctl", "ctrl", "hc", "hcs", "healthy", "healthycontrol",
     "healthycontrols", "healthyvolunteer", "hv", "nc", "normal", "normalcontrol", "tc", "td", "typical",
     "unaffected")
)  # fmt: skip
_LITTLE_OVERLAP = 0.5
_OTHER_MODALITIES = 0.1
"""Shares of two groups that were scored from one set of modalities may differ by so much without a word."""
_COMPARED = ("bag", "bag_z")
"""The raw gap and its normative z; age is a covariate, so the corrected gap would say the same again."""


def control_group(values: Sequence[str]) -> str | None:
    """The one value that is a usual word for people without a diagnosis (TC, HC, control, ...), if any."""
    found = [v for v in sorted(set(values)) if "".join(filter(str.isalpha, v.casefold())) in _CONTROLS]
    return found[0] if len(found) == 1 else None


def group_values(table: pd.DataFrame, column: str) -> pd.Series:
    """The groups of each scan as text, "" where it is not known.

    Raises
    ------
    UsageError : there is no such column, or it has no groups but numbers or names.
    """
    if column not in table:
        raise UsageError(
            "the score table has no such column",
            where=f"--group {column}",
            hint=nearest(column, table.columns),
        )
    values = table[column]
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")  # codes such as 1 and 2, which a gap in the column made 1.0 and 2.0
    text = values.astype(object).where(values.notna(), "").map(str).str.strip()
    count = text[text != ""].nunique()
    if count > MOST_GROUPS:
        raise UsageError(
            f"a column with {count} different values is not one of groups",
            where=f"--group {column}",
            expected=f"at most {MOST_GROUPS} groups",
            hint="name a column such as diagnosis",
        )
    return text


def described(scans: pd.DataFrame, group: pd.Series) -> pd.DataFrame:
    """Each group as it is, not adjusted for anything.

    Parameters
    ----------
    scans : scored scans of known age.
    group : of each scan; "" is told as "not known".

    Returns
    -------
    Columns `group`, `n` (scans), `people`, `mean_age`, `sd_age`, `mae`, and `mean` and `sd` of the raw
    and the corrected gap (`mean_gap`, `sd_gap`, `mean_corrected`, `sd_corrected`), years.
    """
    rows = []
    for name in [*sorted(set(group) - {""}), *([""] if (group == "").any() else [])]:
        own = scans[(group == name).to_numpy()]
        row = {"group": name or "not known", "n": len(own), "people": own["participant_id"].nunique()}
        row |= {"mean_age": own["age"].mean(), "sd_age": own["age"].std(), "mae": own["bag"].abs().mean()}
        for word, column in (("gap", "bag"), ("corrected", "bag_corrected")):
            if column in own:
                row |= {f"mean_{word}": own[column].mean(), f"sd_{word}": own[column].std()}
        rows.append(row)
    return pd.DataFrame(rows)


def compared(scans: pd.DataFrame, group: pd.Series, reference: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Every group against the reference, adjusted, in the raw gap and in its normative z.

    Returns
    -------
    The table: `outcome`, `group`, `reference`, `n`, `n_reference`, `adjusted_for`, `difference` with
    `low` and `high` (95 %), `p`, `g` with `g_low` and `g_high`. And what has to be said about it.
    """
    small = sorted(str(n) for n in set(group) - {""} if int((group == n).sum()) < FEWEST_IN_GROUP)
    kept = ~group.isin([*small, ""]).to_numpy()
    chosen, own = scans[kept], group[kept].to_numpy()
    notes = []
    if unknown := int((group == "").sum()):
        notes.append(f"{many(unknown, 'scan')} of no known group are not compared.")
    if small:
        fewer = f"fewer than {FEWEST_IN_GROUP} scans"
        notes.append(f"Not compared, with {fewer} each: {', '.join(small)}.")
    if reference in small or len(set(own)) < 2:
        return pd.DataFrame(), (*notes, "There are no two groups to compare.")
    rows = []
    for column in _COMPARED:
        if column not in chosen or not (known := chosen[column].notna().to_numpy()).any():
            continue
        scans_known, groups_known = chosen[known], own[known]
        if not (groups_known == reference).any() or len(set(groups_known)) < 2:
            continue
        full = _contrast(scans_known, groups_known, reference, column, with_site=True)
        rows += _rows(full, column, groups_known, reference)
        of_sites = []
        if full.confounded:
            # Nothing tells these from their sites; without sites, the difference may be one of scanners.
            partly = _contrast(scans_known, groups_known, reference, column, with_site=False)
            of_sites = [
                row
                for row in _rows(partly, column, groups_known, reference)
                if row["group"] in full.confounded
            ]
            rows += of_sites
        if column == _COMPARED[0]:
            told = {str(row["group"]) for row in of_sites}
            notes += _cautions(full, told, scans_known, groups_known, reference)
    return pd.DataFrame(rows), tuple(notes)


def by_site(scans: pd.DataFrame) -> tuple[pd.DataFrame, float | None]:
    """The mean gap of each site at the cohort's age, sex and modalities, and sites' share of the spread.

    Returns
    -------
    The table of `described`, by site, with `adjusted_gap`, `low` and `high` (95 %, on t with the scans of
    the site): the site's intercept in a regression of the raw gap on age, age squared, sex and the set of
    modalities, less the mean of the sites' intercepts; NaN for sites with fewer than five scans. And the
    share of the gap's variance, beyond these, that lies between sites (adjusted for their number); None for
    one site.
    """
    from scipy.stats import t as student

    table = described(scans, scans["site"])
    names, site = np.unique(scans["site"].to_numpy().astype(str), return_inverse=True)
    people = np.bincount(site)
    outcome = scans["bag"].to_numpy(dtype=float)
    design = np.stack(list(_covariates(scans).values()), axis=1)
    within = [_less_site_mean(column, site, people) for column in (outcome, *design.T)]
    beta = np.linalg.lstsq(np.stack(within[1:], axis=1), within[0], rcond=None)[0]
    left = outcome - design @ beta
    mean = np.bincount(site, weights=left) / people
    spread = np.sqrt(np.bincount(site, weights=(left - mean[site]) ** 2) / np.maximum(people - 1, 1))
    enough = people >= FEWEST_IN_GROUP
    centre = float(mean[enough].mean()) if enough.any() else 0.0
    reach = student.ppf((1 + LEVEL) / 2, np.maximum(people - 1, 1)) * spread / np.sqrt(people)
    found = {
        name or "not known": (m, m - r, m + r) if ok else (np.nan,) * 3
        for name, m, r, ok in zip(names, mean - centre, reach, enough, strict=True)
    }
    adjusted = pd.DataFrame(
        [found[name] for name in table["group"]], columns=["adjusted_gap", "low", "high"]
    )
    return pd.concat([table, adjusted], axis=1), _between(outcome, design, site, people)


def _between(outcome: np.ndarray, design: np.ndarray, site: np.ndarray, people: np.ndarray) -> float | None:
    """1 - residual variance with sites over that without, each over its degrees of freedom; at least 0."""
    rows, sites, width = len(outcome), len(people), design.shape[1]
    if sites < 2 or rows - sites - width < 1:
        return None
    variances = []
    for where, levels in ((site, sites), (np.zeros_like(site), 1)):
        count = np.bincount(where)
        y, *x = (_less_site_mean(column, where, count) for column in (outcome, *design.T))
        stacked = np.stack(x, axis=1)
        residual = y - stacked @ np.linalg.lstsq(stacked, y, rcond=None)[0]
        variances.append(float(residual @ residual) / (rows - levels - width))
    return max(0.0, 1 - variances[0] / variances[1]) if variances[1] > 0 else None


def _less_site_mean(column: np.ndarray, site: np.ndarray, people: np.ndarray) -> np.ndarray:
    return column - (np.bincount(site, weights=column) / people)[site]


def _covariates(scans: pd.DataFrame) -> dict[str, np.ndarray]:
    age = scans["age"].to_numpy(dtype=float)
    sex = scans["sex"].to_numpy()
    centred = age - age.mean()
    found = {"age": centred, "age²": centred**2, "sex": (sex == "M").astype(float)}
    if (sex == "U").any():
        found["sex unknown"] = (sex == "U").astype(float)
    has = available(scans)
    *fewer, _ = sorted(set(has), key=lambda name: (len(name), name))  # beside the fullest set
    return found | {f"modalities ({name}{_only(name)})": (has == name).astype(float) for name in fewer}


def _only(modalities: str) -> str:
    return "" if "+" in modalities else " only"


def _contrast(
    scans: pd.DataFrame, group: np.ndarray, reference: str, column: str, *, with_site: bool
) -> Contrast:
    covariates = _covariates(scans)
    if set(group) <= {"F", "M", "U"} and (scans["sex"].to_numpy() == group).all():
        covariates = {  # sex is what is compared
            name: values for name, values in covariates.items() if not name.startswith("sex")
        }
    return adjusted_differences(
        scans[column].to_numpy(dtype=float),
        group,
        reference,
        covariates,
        site_N=scans["site"].to_numpy() if with_site else None,
        person_N=scans["participant_id"].to_numpy(),
    )


def _rows(found: Contrast, column: str, group: np.ndarray, reference: str) -> list[dict[str, object]]:
    return [
        {
            "outcome": GAPS[column],
            "group": name,
            "reference": reference,
            "n": int((group == name).sum()),
            "n_reference": int((group == reference).sum()),
            "adjusted_for": ", ".join(found.covariates) or "nothing",
            "difference": one.value,
            "low": one.low,
            "high": one.high,
            "p": one.p,
            "g": one.g,
            "g_low": one.g_low,
            "g_high": one.g_high,
        }
        for name, one in found.differences.items()
    ]


def _cautions(
    found: Contrast, told: set[str], scans: pd.DataFrame, group: np.ndarray, reference: str
) -> list[str]:
    """What to mind of a comparison; `told` are groups that are told from the others but for their sites."""
    notes = []
    if told:
        notes.append(
            f"{', '.join(sorted(told))} cannot be told from their sites (no site has them and another"
            f" group). The difference is given without site as a covariate, and may be one of scanners."
        )
    if never := sorted(set(found.confounded) - told):
        notes.append(
            f"{', '.join(never)} cannot be told from what they were scored from, or from their sex and age:"
            " no difference is given."
        )
    if not found.confounded and found.informative < found.n:
        notes.append(
            f"Only {found.informative} of {found.n} scans are at sites with more than one group; the"
            " others say nothing about the difference beside their site."
        )
    if fixed := [name for name in found.without if name != "site"]:
        notes.append(f"No covariate, since it does not vary or others determine it: {', '.join(fixed)}.")
    age = scans["age"].to_numpy(dtype=float)
    low, high = np.quantile(age[group == reference], [0.025, 0.975])
    for name in found.differences:
        own = age[group == name]
        inside = float(((own >= low) & (own <= high)).mean())
        if inside < _LITTLE_OVERLAP:
            notes.append(
                f"Only {100 * inside:.0f} % of {name} are as old as the middle 95 % of {reference}"
                f" ({low:.0f} to {high:.0f} years): the difference rests on extrapolation over age."
            )
    has = available(scans)
    uneven = []
    for modalities in sorted(set(has)):
        from_these = {name: float((has[group == name] == modalities).mean()) for name in set(group)}
        if max(from_these.values()) - min(from_these.values()) > _OTHER_MODALITIES:
            uneven.append(f"from {modalities}{_only(modalities)} ({_by_group(from_these)})")
    if uneven:
        if len(set(has)) == 2:
            del uneven[1:]  # the other says the same
        notes.append(
            f"The groups differ in how many were scored {', '.join(uneven)}. The gap differs between sets"
            " of modalities; one offset for each set is taken out. Compare people with the same set, too."
        )
    if "in_training" in scans:
        of_training = scans["in_training"].to_numpy()
        trained = {name: float(of_training[group == name].mean()) for name in set(group)}
        if max(trained.values()) - min(trained.values()) > 0.2:
            notes.append(
                f"The groups differ in how many were in the model's training ({_by_group(trained)}). New"
                " people are scored by more members than people of the training, and belong compared with"
                " new controls."
            )
    return notes


def _by_group(shares: dict[str, float]) -> str:
    """A share of each group, "control 100 %, patient 0 %"."""
    return ", ".join(f"{name} {percent(share)}" for name, share in sorted(shares.items()))
