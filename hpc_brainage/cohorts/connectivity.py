"""Functional connectivity of one scan, or of a group of scans, from ROI time series.

A series is an array of shape (volumes, ROIs), float64. An edge is a pair of ROIs i < j in the order of
the file; E = R (R - 1) / 2 edges of R ROIs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

# With n volumes the standard error of a Fisher z is at best 1 / sqrt(n - 3): 0.16 with 40.
FEWEST_VOLUMES = 40
LARGEST_CORRELATION = 1.0 - 1e-7  # keeps Fisher z finite (8.4) where two ROIs have the same signal

_NO_SIGNAL = 1e-6


def edge_names(labels: Sequence[str], prefix: str = "") -> tuple[str, ...]:
    """`{a}--{b}` for every pair of ROIs in their order, shape (edges,)."""
    return tuple(f"{prefix}{a}--{b}" for i, a in enumerate(labels) for b in labels[i + 1 :])


def dead_rois(series: np.ndarray) -> np.ndarray:
    """ROIs without a signal, shape (ROIs,): outside the brain or the field of view in this scan.

    Such an ROI varies by less than a millionth of its own mean, or of what the ROIs of this scan
    typically vary by: by rounding, that is.
    """
    spread = series.std(axis=0)
    alive = spread[spread > 0]
    typical = float(np.median(alive)) if len(alive) else 0.0
    dead: np.ndarray = spread <= _NO_SIGNAL * np.maximum(np.abs(series.mean(axis=0)), typical)
    return dead


def pearson(series: np.ndarray) -> np.ndarray:
    """Fisher z (artanh) of Pearson's correlation of every pair of ROIs, shape (edges,), float32.

    Edges of dead ROIs are NaN.
    """
    alive = ~dead_rois(series)
    z = np.full((series.shape[1],) * 2, np.nan)
    standardised = _standardised(series[:, alive])
    r = standardised.T @ standardised / len(series)
    z[np.ix_(alive, alive)] = np.arctanh(np.clip(r, -LARGEST_CORRELATION, LARGEST_CORRELATION))
    return _edges(z)


def partial(series: np.ndarray) -> np.ndarray:
    """Partial correlation of every pair of ROIs given all others, shape (edges,), float32.

    Through nilearn on standardised series, with the Ledoit-Wolf estimate of the covariance: shrinkage
    keeps it invertible even with fewer volumes than ROIs. A dead ROI explains nothing, so the others
    are computed without it and its edges are NaN.
    """
    alive = ~dead_rois(series)
    matrix = np.full((series.shape[1],) * 2, np.nan)
    matrices, _ = _through_nilearn("partial correlation", [series[:, alive]])
    matrix[np.ix_(alive, alive)] = matrices[0]
    return _edges(matrix)


def tangent(group: Sequence[np.ndarray], labels: Sequence[str]) -> tuple[np.ndarray, str]:
    """Deviations of each scan from the group in the tangent space of covariances.

    Varoquaux et al. 2010 (MICCAI), through nilearn with the Ledoit-Wolf covariance of standardised
    series. The reference is the geometric mean of this group, so the numbers of two groups are only
    comparable with the same reference.

    Parameters
    ----------
    group : at least two scans, the same ROIs in all of them and none dead.
    labels : of the ROIs.

    Returns
    -------
    edges : shape (scans, edges), float32.
    reference : eight characters that name the reference and its ROIs.
    """
    matrices, mean = _through_nilearn("tangent", group)
    # Rounded, so that the last bits of another machine's algebra do not make another reference.
    digest = hashlib.sha256("\n".join(labels).encode())
    digest.update((np.round(mean, 5) + 0.0).astype("<f8").tobytes())
    return np.stack([_edges(matrix) for matrix in matrices]), digest.hexdigest()[:8]


def _standardised(series: np.ndarray) -> np.ndarray:
    centred = series - series.mean(axis=0)
    standardised: np.ndarray = centred / centred.std(axis=0)
    return standardised


def _edges(matrix: np.ndarray) -> np.ndarray:
    edges: np.ndarray = matrix[np.triu_indices(len(matrix), k=1)].astype(np.float32)
    return edges


def load_engine() -> None:
    """Import what computes partial correlations, and its BLAS with it.

    Whoever sets the number of BLAS threads later, as a conversion does for all of its own, then finds it.
    """
    import nilearn.connectome  # noqa: F401


def _through_nilearn(kind: str, group: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of a group, shape (scans, ROIs, ROIs), and their mean in the sense of this kind."""
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import LedoitWolf
    from threadpoolctl import threadpool_limits

    measure = ConnectivityMeasure(cov_estimator=LedoitWolf(store_precision=False), kind=kind)
    # Threads only get in each other's way at matrices of this size: one is up to ten times faster.
    with threadpool_limits(1):
        matrices = measure.fit_transform([_standardised(series) for series in group])
    return matrices, measure.mean_
