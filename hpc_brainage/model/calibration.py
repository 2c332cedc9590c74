"""What a bundle knows about its own errors: measured on held-out controls, as plain numbers.

Everything here comes from people of the training whom the members that were asked had never seen. A group
is "which modalities the age was predicted from", as "smri+fmri" or "smri". `scoring.uncertainty` and
`scoring.normative` fit these records and apply them.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Curve(_Record):
    """A smooth function of one number x: weights times the columns of `scoring.splines.basis`."""

    knots: tuple[float, ...]
    """Knots of a natural cubic spline, in the unit of x; two make a line, fewer a constant."""
    weights: tuple[float, ...]
    """Of 1, x (scaled to the knots) and the curved columns, then of what else the function takes."""


class Quantile(_Record):
    """How many normalised errors wide an interval is."""

    q: float
    """Half the width of the 90 % interval, in units of the expected error."""
    n: int
    """Held-out controls that it is the quantile of."""


class Intervals(_Record):
    """Normalised split-conformal intervals of the age."""

    expected_error: Curve
    """Log of the expected absolute error in years, of the predicted age; and of the log of the standard
    deviation that the model predicts, where `uses_sd`."""
    uses_sd: bool
    tertiles: tuple[float, float]
    """Predicted ages, years, at which the thirds of the controls part."""
    quantiles: dict[str, Quantile]
    """For "everyone", and for "F", "M", "F low", "F middle", ... where there are enough controls."""


class AgeCounts(_Record):
    """How many people there are of which age, and who counts as near an age."""

    first: int
    """The whole year of life that `counts` begins with."""
    counts: tuple[int, ...]
    """By whole year of life."""
    within: float
    """How many years younger or older a person near an age may be."""


class Shape(_Record):
    """What makes a skewed number u normal: z = sinh(tail · asinh((u - location) / scale) - skew)."""

    location: float
    scale: float
    skew: float
    tail: float
    """At most 1, which is that of normal numbers; smaller for longer tails."""


class Norms(_Record):
    """Mean, spread and shape of the raw gap of controls, given age and sex."""

    age_min: float
    age_max: float
    """Ages of these controls, years; nothing is said outside."""
    ages: AgeCounts | None = None
    """How many of these controls are of which age; nothing is said where fewer than 20 are near. None in
    bundles of before they were counted."""
    mean: Curve
    """Of age; the last weight is of sex (F 1/2, M -1/2, unknown 0)."""
    log_sd: Curve
    """Log of the standard deviation, of the same; constant beyond the outer knots."""
    shape: Shape | None = None
    """Of the gaps less their mean, over their standard deviation. None of 40 controls or fewer, where the
    search for it failed, and in bundles of format 2: they are taken for normal."""
    z: tuple[float, ...]
    """Held-out normative z of the controls, ascending, each by curves and a shape without their fold."""


class Group(_Record):
    """Calibration for scans that are predicted from these modalities."""

    n: int
    """Held-out controls who have these modalities, and maybe more."""
    intervals: Intervals
    norms: Norms | None = None
    """None where there are too few controls."""
    far: float | None = None
    """99th percentile of `mahalanobis` over all held-out people."""


class Coverage(_Record):
    """In how many of n held-out controls the 90 % interval held the age."""

    n: int
    covered: float


class Uniformity(_Record):
    """How normal the normative z are: their probabilities should be uniform."""

    n: int
    ks: float
    """Kolmogorov-Smirnov distance of Φ(z) from the uniform distribution."""
    p: float
    skew: float
    """Skewness of z; 0 if it is normal."""


class RoleDepth(_Record):
    """What is usual for a modality of held-out people, controls or not."""

    log_error_mean: float | None = None
    log_error_sd: float | None = None
    """Mean and SD of the log reconstruction error."""
    poor: float | None = None
    """99th percentile of the z of that."""
    beyond: float | None = None
    """99th percentile of how many features lie beyond what the other training people showed."""


class Calibration(_Record):
    """All that was measured on held-out people beside the accuracy."""

    controls: str
    """The selection of the controls, or "" for everybody."""
    n: int
    """Held-out controls with a prediction."""
    ages: AgeCounts | None = None
    """How many people of the training, controls or not, are of which age."""
    groups: dict[str, Group]
    coverage: dict[str, Coverage] = Field(default_factory=dict)
    """Of 90 % intervals that the person's fold had no part in: "everyone", "sex F", "site NYU",
    "with smri+fmri"; each by what the person has. "everyone, by the other sites' people" are intervals that
    nobody of the person's site had a part in."""
    uniformity: dict[str, Uniformity] = Field(default_factory=dict)
    """By group."""
    depth: dict[str, RoleDepth] = Field(default_factory=dict)
    """By role."""
