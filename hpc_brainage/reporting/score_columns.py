"""How the columns of a report's tables are shown: their headings, units and digits."""

from __future__ import annotations

from hpc_brainage.reporting.page import Column

LIMITS = ("low", "high")
PROSE = 600
"""Signs of a cell of this package's own words, which are not cut."""


def _measure(name: str, heading: str, *, sign: bool = False) -> Column:
    return Column(name, heading, sign=sign, limits=(f"{name}_low", f"{name}_high"))


DESCRIBED = (
    Column("group", "Group"),
    Column("n", "Scans"),
    Column("people", "People"),
    Column("mean_age", "Mean age", decimals=1),
    Column("sd_age", "SD", decimals=1),
    Column("mae", "Mean absolute gap"),
    Column("mean_gap", "Mean gap", sign=True),
    Column("sd_gap", "SD"),
    Column("mean_corrected", "Mean corrected gap", sign=True),
    Column("sd_corrected", "SD"),
)
ACCURACY = (
    Column("people", "People"),
    Column("predictor", "Predictor"),
    Column("n", "Scans"),
    _measure("mae", "MAE"),
    _measure("rmse", "RMSE"),
    _measure("r2", "R²"),
    _measure("r", "r"),
)
AGE_LINE = (
    Column("people", "People"),
    Column("n", "Scans"),
    _measure("intercept", "Intercept, years"),
    _measure("slope", "Slope"),
    _measure("mean_gap", "Mean gap, years", sign=True),
    Column("sd_gap", "SD of the gap"),
)
BESIDE = (
    Column("prediction", "Prediction"),
    Column("n", "Scans"),
    Column("mae", "MAE"),
    Column("mae_main", "MAE of the main one"),
    Column("mean_difference", "Mean difference from the main one", sign=True),
    Column("mean_absolute_difference", "Mean absolute difference"),
)
GAP_AGE = (
    Column("gap", "Gap"),
    Column("n", "Scans"),
    _measure("mean", "Mean", sign=True),
    Column("sd", "SD"),
    _measure("r", "r with age", sign=True),
    _measure("per_decade", "Change per decade", sign=True),
    Column("explained", "Explained by age and age²", decimals=0, percent=True),
    Column("p", "p"),
)
DIFFERENCES = (
    Column("outcome", "Outcome"),
    Column("group", "Group"),
    Column("reference", "Minus"),
    Column("n", "Scans"),
    Column("n_reference", "Scans of the reference"),
    Column("difference", "Difference", sign=True, limits=LIMITS),
    Column("p", "p"),
    Column("g", "Hedges' g", sign=True, limits=("g_low", "g_high")),
    Column("adjusted_for", "Adjusted for"),
)
_HOLD = Column("coverage", "Hold the true age (95 %)", decimals=0, percent=True, limits=LIMITS)
COVERAGE = (
    Column("people", "Group"),
    Column("n", "People"),
    Column("scans", "Scans"),
    _HOLD,
    Column("median_width", "Median width, years", decimals=1),
)
TRAINING_COVERAGE = (Column("people", "People"), Column("n", "Scans"), _HOLD)
