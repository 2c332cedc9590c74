"""Making skewed numbers normal: the sinh-arcsinh transformation (Jones and Pewsey 2009, Biometrika 96:761).

With u a number, z = sinh(δ asinh((u - ξ) / λ) - ε) is normal where u has a skewness (ε) and tails that are
longer than normal ones (δ < 1). It rises with u throughout, so that nobody changes places. Tails shorter
than normal (δ > 1) are not fitted: far out, where there is nobody to fit on, they would make one large u
larger still.
"""

from __future__ import annotations

import numpy as np

from hpc_brainage.model.calibration import Shape

_MOST = 3.5  # a number counts as if it were no further out: a few absurd ones are not to bend the others
_BOUNDS = ((-3.0, 3.0), (np.log(0.05), np.log(20.0)), (-3.0, 3.0), (np.log(0.2), 0.0))
_START = (0.0, 0.0, 0.1, -0.1)


def fit_shape(u: np.ndarray) -> Shape:
    """The shape under which standardised numbers u (n,) are most likely to have been normal ones."""
    from scipy.optimize import minimize

    known = np.clip(u, -_MOST, _MOST)
    found = minimize(_unlikely, _START, args=(known,), method="L-BFGS-B", bounds=_BOUNDS)
    location, log_scale, skew, log_tail = (float(number) for number in found.x)
    return Shape(location=location, scale=float(np.exp(log_scale)), skew=skew, tail=float(np.exp(log_tail)))


def reshaped(shape: Shape, u: np.ndarray) -> np.ndarray:
    """z of each u; NaN stays NaN."""
    bent = shape.tail * np.arcsinh((u - shape.location) / shape.scale) - shape.skew
    z: np.ndarray = np.sinh(bent)
    return z


def _unlikely(parameters: np.ndarray, u: np.ndarray) -> float:
    """Mean negative log likelihood, but for a constant: ½ z² - log dz/du."""
    location, log_scale, skew, log_tail = parameters
    t = (u - location) * np.exp(-log_scale)
    bent = np.exp(log_tail) * np.arcsinh(t) - skew
    log_slope = log_tail - log_scale + np.log(np.cosh(bent)) - 0.5 * np.log1p(t**2)
    return float(np.mean(0.5 * np.sinh(bent) ** 2 - log_slope))
