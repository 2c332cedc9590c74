"""The report on a scored cohort: its first screen, its sections, and where it all comes from."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpc_brainage.numerals import interval, many, number
from hpc_brainage.reporting.page import (
    Bullets,
    Column,
    DataTable,
    Markdown,
    Paragraph,
    Section,
    Summary,
    render_page,
)
from hpc_brainage.reporting.score_sections import SECTIONS, Blocks
from hpc_brainage.reporting.told import Told

_ANSWERS = {"yes": "Yes: none of the checks speaks against it", "care": "With care", "no": "No",
            "open": "It cannot be told from these scores"}  # fmt: skip
_NOT_A_DEVICE = (
    "For research. Not a diagnostic device: no row of this table says anything about one person's health."
)
_MOST_HEADLINES = 3
_MOST_REASONS = 5
"""Of checks that ask for care; every "no" is shown."""
_ERRORS = {
    "this model": "mean absolute error, years",
    "their own mean age": "years, by saying their mean age",
}
"""What the first screen calls the errors of a predictor."""
_REFERENCES = (
    "Age bias of gaps: Beheshti I et al. (2019), NeuroImage: Clinical 24:102063; de Lange AMG, Cole JH"
    " (2020), NeuroImage: Clinical 26:102229.",
    "Why corrected ages measure no accuracy: Butler ER et al. (2021), Human Brain Mapping 42:4092.",
    "Intervals: Efron B, Tibshirani R (1993), An Introduction to the Bootstrap; MacKinnon JG, White H"
    " (1985), Journal of Econometrics 29:305 (HC3); Hedges LV (1981), Journal of Educational"
    " Statistics 6:107; Wilson EB (1927), Journal of the American Statistical Association 22:209.",
    "The kind of model: a sex-aware adversarial variational autoencoder, arXiv 2412.05632.",
)


def score_report(told: Told) -> str:
    """The report as HTML; the same scores give the same bytes."""
    parts = (
        *SECTIONS,
        ("model", "The model", _model),
        ("cite", "How to cite, and where it comes from", _provenance),
        ("columns", "Columns of the score table", _columns),
    )
    sections = [Section(name, title, content(told)) for name, title, content in parts]
    footer = (_NOT_A_DEVICE, "This page holds all that it shows: it loads nothing and runs nothing.")
    return render_page(f"{told.store}, scored by {told.model}", _summary(told), sections, footer)


def _summary(told: Told) -> Summary:
    scans, people, scored = len(told.table), told.table["participant_id"].nunique(), len(told.scored)
    line = (
        f"{many(scans, 'scan')} of {many(people, 'person', 'people')} of the store {told.store};"
        f" {len(told.known):,} have a gap between predicted and chronological age."
    )
    figures = [(f"{scored:,} of {scans:,}", "", "scans scored")]
    if len(told["accuracy"]):
        who = "" if told.judged == "everyone" else f" ({told.judged})"
        for predictor, meaning in _ERRORS.items():
            row = told.of_judged("accuracy", predictor)
            between = interval(row["mae_low"], row["mae_high"])
            figures.append((number(row["mae"]), between, f"{meaning}{who}"))
    for row in _headlines(told):
        difference, between = (
            number(row["difference"], sign=True),
            interval(row["low"], row["high"], sign=True),
        )
        meaning = (
            f"{row['group']} minus {row['reference']}: raw gap, years, adjusted for {row['adjusted_for']}"
        )
        figures.append((difference, between, meaning))
    against = told["against"].to_dict("records")
    reasons = [f"{one['check']} {one['brief']}." for one in against if one["judgement"] == told.verdict]
    if told.verdict != "no":
        del reasons[_MOST_REASONS:]
    more = len(against) - len(reasons)
    others = f"{many(more, 'other check')} {'is' if more == 1 else 'are'} no plain yes"
    return Summary(
        told.verdict,
        "Can this model's brain ages be used in this cohort?",
        _ANSWERS[told.verdict],
        (line, _NOT_A_DEVICE),
        tuple(reasons),
        tuple(figures),
        (others, "checks") if more else None,
    )


def _headlines(told: Told) -> list[dict[str, Any]]:
    """The differences in the raw gap that the report was made for: of the groups, or else of the sexes."""
    table = told["group_differences"] if len(told["group_differences"]) else told["sex_differences"]
    if not len(table):
        return []
    rows = table[table["outcome"].str.startswith("raw gap")].head(_MOST_HEADLINES)
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def _model(told: Told) -> Blocks:
    about = told.about.get("model") or {}
    blocks: Blocks = []
    if len(told["evidence"]) and not about.get("card"):  # which has them
        measures = (("mae", "MAE"), ("rmse", "RMSE"), ("r2", "R²"), ("r", "r"))
        texts = (Column("people", "People"), Column("predictor", "Predictor"), Column("n", "Scans"))
        columns = (*texts, *(Column(name, heading) for name, heading in measures))
        blocks += [
            Paragraph("The model's own evidence: errors on held-out people of its training, years."),
            DataTable("Held-out errors in training", told["evidence"], columns, "evidence"),
        ]
    if card := about.get("card"):
        blocks += [Paragraph("The model's card, as it comes with the model:"), Markdown(str(card))]
    if not blocks:
        text = "The sidecar brings neither the model's card nor its evidence: look into the model's folder."
        blocks.append(Paragraph(text, "note"))
    return blocks


def _provenance(told: Told) -> Blocks:
    model, store = told.about.get("model") or {}, told.about.get("store") or {}
    software = told.about.get("software") or {}
    version = software.get("hpc-brainage", "of unknown version")
    return [
        Paragraph(
            f"Say: brain ages were predicted with hpc-brainage {version}, model “{told.model}” (SHA-256"
            f" {str(model.get('sha256', 'unknown'))[:16]}), from the store “{told.store}” (SHA-256"
            f" {str(store.get('sha256', 'unknown'))[:16]}); say whether the raw or the corrected gap"
            " was used, and cite the cohort, the model's training cohort, and the software that made"
            " the features."
        ),
        Bullets(_REFERENCES),
        Paragraph("Software: " + ", ".join(f"{name} {one}" for name, one in software.items()), "note"),
        Paragraph(f"Model {model.get('sha256', '')}. Store {store.get('sha256', '')}.", "note"),
    ]


def _columns(told: Told) -> Blocks:
    meanings = told.about.get("columns") or {}
    table = pd.DataFrame(
        {"column": list(map(str, told.table)), "meaning": [str(meanings.get(c, "")) for c in told.table]}
    )
    columns = (Column("column", "Column"), Column("meaning", "Meaning", longest=300))
    return [DataTable("Columns", table, columns, "columns")]
