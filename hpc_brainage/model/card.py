"""The model card: what a bundle is, for a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_brainage.model.bundle import ModelInfo
    from hpc_brainage.model.evidence import Comparison, Evidence, Performance


def model_card(info: ModelInfo) -> str:
    """A bundle's MODEL_CARD.md."""
    people = info.training
    lines = [
        f"# {info.name}",
        "",
        "A brain-age model: a Sex-Aware Adversarial Variational Autoencoder (after arXiv 2412.05632),",
        f"{len(info.members)} members, {info.config.training.ensemble} for each cross-validation fold.",
        "**For research. Not a diagnostic device.**",
        "",
        "## Trained on",
        f"- {people.scans} scans of {people.people} people of the store `{people.store}`"
        + (f", chosen by `{people.where}`" if people.where else ""),
        f"- age {people.age_min:.1f} to {people.age_max:.1f} years"
        f" (mean {people.age_mean:.1f}, SD {people.age_sd:.1f})",
        f"- scans by sex: {_counts(people.sexes)}; sites: {_sites(people.sites)}",
        f"- scans with each modality: {_counts(people.with_modality)}",
        f"- store hash `{people.store_sha256}`",
        "",
        "## Takes",
    ]
    lines += [f"- {role}: {len(names)} features, found by name" for role, names in info.features.items()]
    lines += [f"- {role}: volumes of {' x '.join(map(str, g))}" for role, g in info.volumes.items()]
    lines += ["", "## Held-out error", ""]
    if info.evidence is None:
        lines.append("Not measured.")
    else:
        evidence = info.evidence
        lines += [
            f"{evidence.folds}-fold cross-validation over people, uncorrected predictions, years:",
            "",
            "| people | predictor | scans | MAE | RMSE | R² | r |",
            "|---|---|---|---|---|---|---|",
            *_rows("everyone", evidence, evidence.everyone),
            *(
                row
                for name, part in evidence.by_available.items()
                for row in _rows(f"with {name}{'' if '+' in name else ' only'}", evidence, part)
            ),
            "",
            *_in_words(evidence),
        ]
    lines += ["", "## Age bias", ""]
    if not info.bias:
        lines.append("Not fitted: scores carry the raw gap only.")
    else:
        lines += [
            f"- {group}: predicted = {line.intercept:.2f} + {line.slope:.3f} x age ({line.n} scans)"
            for group, line in info.bias.items()
        ]
        lines += [
            "",
            "`bag_corrected` takes this trend out of the gap, by the line of what a scan is predicted from."
            " Corrected ages use the chronological age and must never be reported as accuracy.",
        ]
    lines += ["", "## Calibration", "", *_calibration(info)]
    lines += [
        "",
        "## Limits",
        "- Outside the ages above, and for scanners unlike these sites', errors are larger and unknown.",
        "- Features must come from the same software and atlas as in training.",
        "",
        f"Software: {', '.join(f'{name} {version}' for name, version in info.software.items())}",
        "",
    ]
    return "\n".join(lines)


def _calibration(info: ModelInfo) -> list[str]:
    found = info.calibration
    if found is None:
        return ["None: scores carry no intervals, no normative z and no depth flags."]
    whom = f"controls (`{found.controls}`)" if found.controls else _everybody(info)
    lines = [
        f"On {found.n} held-out scans of {whom}. The 90 % intervals held the age, each fitted without the"
        " person's fold, of:",
        "",
        "| people | scans | held |",
        "|---|---|---|",
        *(
            f"| {name.replace('|', '/')} | {one.n} | {one.covered:.1%} |"
            for name, one in found.coverage.items()
        ),
        "",
    ]
    for name, one in found.uniformity.items():
        lines.append(
            f"- normative z from {name}: {one.n} scans, distance from a normal distribution"
            f" {one.ks:.3f} (Kolmogorov-Smirnov, p = {one.p:.2g}), skewness {one.skew:+.2f}"
        )
    for name, group in found.groups.items():
        if group.norms is not None and group.norms.shape is None:
            lines.append(f"- normative z from {name} have no shape: they are as skewed as the gaps")
    lacking = [name for name, group in found.groups.items() if group.norms is None]
    if lacking:
        lines.append(f"- no normative z from {', '.join(lacking)}: too few scans")
    lines += [
        "",
        "The folds are over people of the same sites. At other sites, and for people with a disease, an"
        " interval may hold the age less often.",
    ]
    return lines


def _everybody(info: ModelInfo) -> str:
    where = info.training.where
    return (
        f"all people of the training, chosen by `{where}`" if where else "people, whatever their diagnosis"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _sites(scans: dict[str, int]) -> str:
    """How many sites are known; "" is that of scans whose site is not."""
    known = len(set(scans) - {""})
    if "" not in scans:
        return str(known)
    return f"{known}, and of {scans['']} scans not given" if known else "not given"


def _rows(people: str, evidence: Evidence, comparison: Comparison) -> list[str]:
    return [
        _row(f"{people} | this model", comparison.model),
        _row(f"{people} | {evidence.ridge_predictor}", comparison.ridge),
        _row(f"{people} | predicting the mean age", comparison.mean_predictor),
        _row(f"{people} | predicting the median age", comparison.median_predictor),
    ]


def _in_words(evidence: Evidence) -> list[str]:
    """What the errors come to: whether the model is told apart from a constant age and from the ridge."""
    apart = "The model errs less than a constant age"
    if (difference := evidence.minus_constant) is not None:
        apart += f" (difference in MAE {difference.words})"
    doubt = evidence.doubt
    said = [f"**{_sentence(doubt)} Do not use its brain ages.**" if doubt else f"{apart}."]
    if beside := evidence.beside_ridge:
        said.append(_sentence(beside))
    if evidence.minus_constant is not None:
        said.append(
            "Intervals are of a bootstrap over people; what another training would change is not in them."
        )
    return said


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _row(name: str, performance: Performance) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    return (
        f"| {name} | {performance.n} | {number(performance.mae)} | {number(performance.rmse)} |"
        f" {number(performance.r2)} | {number(performance.r)} |"
    )
