"""The sections of a report on scores: their words, figures and tables, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from hpc_brainage.numerals import many, number, probability
from hpc_brainage.reporting import score_figures as draw
from hpc_brainage.reporting.page import (
    Bullets,
    Column,
    DataTable,
    Drawing,
    Markdown,
    Paragraph,
    Picture,
)
from hpc_brainage.reporting.score_columns import (
    ACCURACY,
    AGE_LINE,
    BESIDE,
    COVERAGE,
    DESCRIBED,
    DIFFERENCES,
    GAP_AGE,
    LIMITS,
    PROSE,
    TRAINING_COVERAGE,
)
from hpc_brainage.reporting.told import Told

Blocks = list[Paragraph | Bullets | Drawing | Picture | Markdown | DataTable]

JUDGEMENTS = {"yes": "✓ yes", "care": "! with care", "no": "✕ no", "open": "? cannot be told"}
_MOST_GROUPS_DRAWN = 12
_MOST_CONTRIBUTIONS = 500
_ALL = "all"
"""What everybody is called in a table of contributions, which has the groups beside it."""


def checks(told: Told) -> Blocks:
    shown = told["checks"].assign(judgement=told["checks"]["judgement"].map(JUDGEMENTS))
    columns = (
        Column("check", "Question"),
        Column("judgement", "Answer"),
        Column("finding", "What was found", longest=PROSE),
    )
    whose = "everybody" if told.judged == "everyone" else f"the scans of the group {told.judged}"
    return [
        Paragraph(
            "Each question is asked of the scores themselves. The answers are conventions: the numbers"
            " stand beside them, so that a stricter reader can judge otherwise. How well age is predicted"
            f" is judged on {whose}."
        ),
        DataTable("Checks", shown, columns, "checks"),
    ]


def people(told: Told) -> Blocks:
    blocks: Blocks = []
    if where := told.about.get("where"):
        blocks.append(Paragraph(f"Only a selection of the store was scored: {where}"))
    blocks.append(
        DataTable(
            "From the table to the comparisons",
            told["flow"],
            (Column("step", "Step"), Column("scans", "Scans"), Column("people", "People")),
            "flow",
        )
    )
    if len(told["reasons"]):
        columns = (Column("reason", "Why not scored", longest=PROSE), Column("scans", "Scans"))
        blocks.append(DataTable("Scans that were not scored", told["reasons"], columns, "not-scored"))
    else:
        blocks.append(Paragraph("No scan was left out."))
    if notes := tuple(map(str, told.about.get("notes") or ())):
        blocks += [Paragraph("What scoring noted:"), Bullets(notes)]
    if len(told["cohort"]):
        blocks.append(
            DataTable("The scans with a gap", told["cohort"], _described(told["cohort"]), "cohort")
        )
    return blocks


def accuracy(told: Told) -> Blocks:
    known = told.known
    if not len(known):
        return [
            _absent("No scan has both a brain age and a chronological age, so nothing can be compared.")
        ]
    line = told.of_judged("age_line")
    there = np.isfinite(line["slope"])
    alt = (
        f"Scatter of predicted on chronological age of {many(len(known), 'scan')}."
        f" {told.judged.capitalize()}: slope {number(line['slope'])}, intercept"
        f" {number(line['intercept'])} years."
    )
    svg = draw.predicted_against_true(
        known["age"].to_numpy(dtype=float),
        known["brain_age"].to_numpy(dtype=float),
        told.group_of_known,
        (line["intercept"], line["slope"]) if there else None,
        alt,
    )
    blocks: Blocks = [
        Paragraph(
            "Errors are those of the raw prediction. A corrected age was made with the person's own"
            " age, so it goes with age however poor the model (Butler et al. 2021: an R² below 0.85 is"
            " then highly improbable), and never measures accuracy."
        ),
        Drawing(svg, f"Predicted against chronological age{_way(len(known))}. Dashed: identity; line:"
                     f" least squares ({told.judged})."),
        DataTable("Errors, years", told["accuracy"], ACCURACY, "accuracy"),
        Paragraph(f"In brackets: {_intervals(told)} R² is against the mean age of the scans in question,"
                  " which nobody knows before a cohort is collected.", "note"),
        DataTable("The line: predicted = intercept + slope × age", told["age_line"], AGE_LINE,
                  "age-line"),
        Paragraph("A slope below 1 is regression to the mean: the young come out too old and the old too"
                  " young. It is why the raw gap falls with age.", "note"),
    ]  # fmt: skip
    if len(told["beside"]):
        blocks.append(DataTable("Predictions beside the main one, years", told["beside"], BESIDE, "beside"))
    return blocks


def gaps(told: Told) -> Blocks:
    known = told.known
    if not len(told["gap_age"]):
        return [_absent("No scan has a gap.")]
    panels = {
        title: known[column].to_numpy(dtype=float)
        for title, column in (("raw", "bag"), ("corrected", "bag_corrected"))
        if column in known and known[column].notna().any()
    }
    alt = "Gap on chronological age. " + " ".join(
        f"{row['gap']}: r = {number(row['r'])}." for row in told["gap_age"].to_dict("records")
    )
    methods = " and ".join(sorted(set(told.scored.get("bias_method", pd.Series(dtype=str)).astype(str))))
    fits = "; ".join(sorted(set(told.scored.get("bias_fit", pd.Series(dtype=str)).astype(str)) - {""}))
    correction = (
        f"The correction ({methods}) takes out a line that was fitted on: {fits}."
        if fits
        else "No line was taken out of the gap: there is no corrected gap."
    )
    svg = draw.gaps_against_age(known["age"].to_numpy(dtype=float), panels, told.group_of_known, alt)
    return [
        Paragraph(f"{correction} The table is about: {told.judged}."),
        *_of_calibrated_sites(told),
        Drawing(
            svg, f"The gap against chronological age{_way(len(known))}; line: least squares over all scans."
        ),
        DataTable("The gap and age", told["gap_age"], GAP_AGE, "gap-and-age"),
        Paragraph(
            "Even a corrected gap belongs in a comparison together with age, age squared, sex and"
            " site: the line is the training people's, and need not be this cohort's.",
            "note",
        ),
    ]


def groups(told: Told) -> Blocks:
    if not len(told.known):
        return [_absent("No scan has a gap.")]
    blocks: Blocks = [
        Paragraph(
            "Differences are coefficients of least squares with the covariates named in the table,"
            " each site with an intercept of its own; intervals (95 %) and p are robust to unequal"
            " variances (HC3), or clustered by person where people have several scans. Hedges' g is"
            " the difference in units of the residual SD. p values are not corrected for the number of"
            " comparisons."
        ),
    ]
    blocks += _compared(told, "sex", "sex_differences", "sex", list(told.known["sex"].astype(str)))
    if told.group is None:
        absent = "No other groups are compared: the table names no diagnosis, and no --group was given."
        blocks.append(_absent(absent))
    else:
        blocks += _compared(told, told.group, "group_differences", "group", told.group_of_known)
    return blocks


def sites(told: Told) -> Blocks:
    table = told["site"]
    if not len(table):
        return [_absent("No scan has a gap.")]
    if len(table) == 1:
        return [Paragraph("There is one site, so sites cannot be compared.")]
    share = told.numbers.get("site_share")
    blocks: Blocks = []
    if share is not None:
        blocks.append(
            Paragraph(
                f"Beyond age, sex and modalities, {100 * share:.0f} % of the raw gap's variance lies"
                f" between the {many(len(table), 'site')}. Differences between sites are of scanners,"
                " processing and people alike; nothing here tells them apart."
            )
        )
        there = table[table["adjusted_gap"].notna()]
        if len(there) > 1:
            svg = draw.forest(
                list(there["group"].astype(str)), there["adjusted_gap"].to_numpy(), there["low"].to_numpy(),
                there["high"].to_numpy(), "mean gap, other things equal, years", "sites",
                f"Mean gap of {many(len(there), 'site')} with 95 % intervals, from"
                f" {number(there['adjusted_gap'].min(), sign=True)} to"
                f" {number(there['adjusted_gap'].max(), sign=True)} years around their mean.",
            )  # fmt: skip
            shown = " (the lowest and the highest twenty)" if len(there) > 40 else ""
            blocks.append(
                Drawing(svg, f"Sites around their mean{shown}. Diamonds: the interval excludes 0.")
            )
    columns = (
        Column("group", "Site"),
        *_described(table)[1:],
        Column("adjusted_gap", "Adjusted gap (95 %)", sign=True, limits=LIMITS),
    )
    blocks.append(DataTable("Sites", table, columns, "sites"))
    return blocks


def uncertainty(told: Told) -> Blocks:
    blocks: Blocks = []
    if len(told["coverage"]):
        blocks += [
            Paragraph(
                "The 90 % interval of a scan should hold the chronological age of nine in ten people"
                " like those of the training. Where it holds fewer, the model is surer than it should"
                " be here; elsewhere, sites in particular, nothing guarantees it."
            ),
            DataTable(
                "How often the 90 % interval holds the true age", told["coverage"], COVERAGE, "coverage"
            ),
        ]
        if len(told["calibrated_coverage"]):
            title = "Intervals calibrated at their sites, and those of the same people before"
            blocks.append(DataTable(title, told["calibrated_coverage"], COVERAGE, "calibrated-coverage"))
    else:
        absent = "The table has no intervals (pi90_lo, pi90_hi) of twenty people"
        blocks.append(_absent(f"{absent}, so how often they hold cannot be told."))
    calibration = (told.about.get("model") or {}).get("calibration") or {}
    if len(told["own_coverage"]):
        controls = calibration.get("controls", "everyone")
        title = f"In training, held out ({controls}): how often the 90 % interval held the true age"
        blocks.append(DataTable(title, told["own_coverage"], TRAINING_COVERAGE, "training-coverage"))
    if len(told["own_uniformity"]):
        measures = (Column("people", "People"), Column("n", "Scans"), Column("ks", "Distance from even"),
                    Column("p", "p"), Column("skew", "Skewness of z", sign=True))  # fmt: skip
        title = "In training, held out: how even the centiles of the gap were"
        blocks.append(DataTable(title, told["own_uniformity"], measures, "training-uniformity"))
    if len(told["centiles"]):
        distance, p = told.numbers.get("centile_distance") or 0.0, told.numbers.get("centile_p")
        chance = "" if p is None else f", p {probability(p)}"
        calibrated = f"; {_calibrated(told)} site-calibrated" if told.about.get("site_calibration") else ""
        alt = f"People in each tenth of the centiles; largest distance from even {distance:.2f}."
        blocks.append(
            Drawing(
                draw.centiles(told["centiles"], alt),
                "Where the gap of each person lies among training controls of the same age and sex, as p"
                f" says it ({told.judged}; one scan a person{calibrated}). Dashed: even, as it is for"
                " people like them; the band is what chance allows. Largest distance from even"
                f" (Kolmogorov-Smirnov): {distance:.2f}{chance}.",
            )
        )
    else:
        blocks.append(_absent("The table has no p and z of twenty people (p_accelerated, bag_z)."))
    blocks += [Paragraph(note, "warning") for note in told.notes.get("centiles", ())]
    return blocks


def depth(told: Told) -> Blocks:
    blocks: Blocks = [
        Paragraph(
            "A flag is no verdict: it names a circumstance that makes a number less certain. Flagged scans"
            " are in all tables above."
        )
    ]
    if len(told["strangeness"]):
        measures = (
            Column("measure", "Measure"),
            Column("n", "Scans"),
            Column("median", "Median", decimals=1),
            Column("q95", "95th centile", decimals=1),
            Column("largest", "Largest", decimals=1),
        )
        blocks.append(
            DataTable(
                "How unlike the training people's scans", told["strangeness"], measures, "strangeness"
            )
        )
    if not len(told["flags"]):
        return [*blocks, Paragraph("No scan is flagged.")]
    columns = (
        Column("flag", "Flag"),
        Column("scans", "Scans"),
        Column("share", "Of those scored", decimals=1, percent=True),
        Column("meaning", "What it means", longest=PROSE),
    )
    return [*blocks, DataTable("Flags", told["flags"], columns, "flags")]


def quality(told: Told) -> Blocks:
    if not len(told["quality"]):
        return [
            _absent("The cohort brings no figures of image quality. Poor images look old: look at them.")
        ]
    columns = (
        Column("quality", "Quality"),
        Column("reason", "Reason", longest=PROSE),
        Column("scans", "Scans"),
    )
    return [
        Paragraph(
            "Nobody was left out for image quality. Poor images can look like old brains. A scan with"
            " several reasons counts for each of them."
        ),
        DataTable("Image quality", told["quality"], columns, "quality"),
    ]


def drivers(told: Told) -> Blocks:
    table = told.contributions
    if table is None or not len(table):
        return [_absent("Contributions of the features were not computed for this table.")]
    blocks: Blocks = [
        Paragraph(
            "How far each feature moved the prediction from that for an average training person, in"
            " years, on average over a group. Features that vary together share what they contribute;"
            " none of this is a cause."
        )
    ]
    blocks += [Picture(png, caption) for caption, png in told.brain_maps]
    strength = "mean_absolute_contribution_years"
    table = table.assign(strength=table[strength if strength in table else "mean_contribution_years"].abs())
    for role in sorted(set(table["role"]), reverse=True):
        own = table[table["role"] == role].sort_values("strength", ascending=False, kind="stable")
        if (own["group"] != _ALL).any():
            own = own[own["group"] != _ALL]
        leading = ", ".join(list(dict.fromkeys(own["feature"]))[:3])
        svg = draw.contributions(own, role, f"Features that move the prediction most, {role}: {leading}.")
        blocks.append(Drawing(svg, f"The features that move the prediction most ({role}), by group."))
        columns = (
            Column("feature", "Feature"),
            Column("group", "Group"),
            Column("mean_contribution_years", "Mean, years", decimals=3, sign=True),
            Column(strength, "Mean absolute, years", decimals=3),
            Column("n", "Scans"),
        )
        full = own.drop(columns="strength").head(_MOST_CONTRIBUTIONS).reset_index(drop=True)
        if len(own) > len(full):
            text = (
                f"The {_MOST_CONTRIBUTIONS} strongest are here; all are in the file beside the score table."
            )
            blocks.append(Paragraph(text, "note"))
        blocks.append(DataTable(f"Contributions, {role}", full, columns, f"contributions-{role}", 12))
    return blocks


def examples(told: Told) -> Blocks:
    names = {
        "brain_age": "brain age",
        "pi90_lo": "90 % from",
        "pi90_hi": "to",
        "bag": "gap",
        "bag_corrected": "corrected gap",
        "bag_z": "z of the gap",
        "p_accelerated": "p (accelerated)",
        "bag_z_site_calibrated": "z, site-calibrated",
        "p_accelerated_site_calibrated": "p, site-calibrated",
    }
    signed = ("bag", "bag_corrected", "bag_z", "bag_z_site_calibrated")
    shown = told["examples"]
    if "flags" in shown:
        shown = shown.assign(flags=shown["flags"].astype(str).str.replace(";", "; "))
    columns = tuple(
        Column(
            name,
            names.get(name, name),
            decimals=1 + name.startswith("bag_z"),
            sign=name in signed,
            longest=200,
        )
        for name in map(str, shown)
    )
    return [
        Paragraph(
            "Lowest, middle and highest gaps, and scans that were not scored. The extremes are where errors"
            " of the input show first: look at these scans before anything else."
        ),
        DataTable("Example rows", shown, columns, "examples"),
    ]


def _compared(told: Told, column: str, differences: str, plain: str, group: list[str]) -> Blocks:
    """A group's figure and tables, and what has to be said."""
    if not len(told[plain]):
        return [_absent(f"Nobody's {column} is known, so no groups are compared.")]
    if len(told[plain]) == 1:
        only = told[plain]["group"].iloc[0]
        return [_absent(f"All of them are of one {column}, {only}: there is nothing to compare.")]
    known, table = told.known, told[differences]
    labels = np.asarray(group, dtype=object)
    outcome = "bag_corrected" if known.get("bag_corrected", pd.Series(dtype=float)).notna().any() else "bag"
    values = {}
    for name in sorted(set(group) - {""}, reverse=True):
        own = known[outcome].to_numpy(dtype=float)[labels == name]
        own = own[np.isfinite(own)]
        if len(own) >= 2:
            values[name] = own
    blocks: Blocks = []
    word = "corrected gap" if outcome == "bag_corrected" else "raw gap"
    if 1 < len(values) <= _MOST_GROUPS_DRAWN:
        middle = ", ".join(
            f"{name} {number(float(np.median(own)), sign=True)}" for name, own in values.items()
        )
        svg = draw.distributions(
            values, f"{word}, years", f"by-{plain}", f"Median {word} by {column}: {middle}."
        )
        blocks.append(
            Drawing(svg, f"The {word} by {column}: median, middle half, and middle 90 % of the scans.")
        )
    blocks.append(DataTable(f"By {column}", told[plain], _described(told[plain]), f"by-{plain}"))
    if len(table):
        blocks.append(
            DataTable(f"Differences by {column}, adjusted", table, DIFFERENCES, f"differences-{plain}")
        )
    blocks += [Paragraph(note, "warning") for note in told.notes.get(differences, ())]
    return blocks


def _of_calibrated_sites(told: Told) -> Blocks:
    """What site calibration did not touch."""
    if not told.about.get("site_calibration"):
        return []
    return [
        Paragraph(
            "Sites were calibrated: the gap, z, p and the 90 % interval in the columns that end in"
            " _site_calibrated. Whether z and p are centred, even and free of age is judged by the"
            f" calibrated ones where somebody has them ({_calibrated(told)} people), and by the plain ones"
            " elsewhere. The groups' and sites' differences on this page are of the gap and z before it,"
            " and still hold what the site added.",
            "warning",
        )
    ]


def _calibrated(told: Told) -> str:
    """Of how many of those whose z and p are judged these were calibrated, "26 of 77"."""
    calibrated, people = (told.numbers.get(f"{word}_people") or 0 for word in ("calibrated", "placed"))
    return f"{calibrated:,.0f} of {people:,.0f}"


def _described(table: pd.DataFrame) -> tuple[Column, ...]:
    """The columns of a description that are known for some group."""
    return tuple(column for column in DESCRIBED if not table[column.name].isna().all())


def _absent(text: str) -> Paragraph:
    return Paragraph(text, "note")


def _way(count: int) -> str:
    """How scans are drawn."""
    return (
        ""
        if count <= draw.MOST_POINTS
        else " (the darker a square, the more scans, on a logarithmic scale)"
    )


def _intervals(told: Told) -> str:
    if not told.drawn:
        return "no intervals, for there are too few people."
    said = f"95 % intervals of a bootstrap over {told.drawn}."
    if told.drawn == "people":
        said += " There are too few sites to draw: what would vary with other sites is not in them."
    return said


SECTIONS: tuple[tuple[str, str, Callable[[Told], Blocks]], ...] = (
    ("checks", "Can it be used here?", checks),
    ("people", "Who was scored, and who was not", people),
    ("accuracy", "Predicted against chronological age", accuracy),
    ("gaps", "The gap and age, before and after correction", gaps),
    ("groups", "Groups", groups),
    ("sites", "Sites", sites),
    ("uncertainty", "Do the intervals hold?", uncertainty),
    ("depth", "Where the model is out of its depth", depth),
    ("quality", "Image quality", quality),
    ("drivers", "What drives the predictions", drivers),
    ("examples", "Example rows", examples),
)
"""Identifier, heading and content of each section about the cohort."""
