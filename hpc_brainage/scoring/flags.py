"""The flags of a score table: what to mind about a row, and what each says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FLAGS: dict[str, str] = {
    "age_unknown": "the store has no age: there is a brain age, and no gap",
    "age_outside_training": "younger or older than all training people: extrapolation",
    "few_training_people_of_this_age": "fewer than 20 training people near this age: brain_age may not"
    " reach it, and the intervals need not hold",
    "age_outside_norms": "fewer than 20 controls near this age to calibrate on: no bag_z",
    "implausible_age": "brain_age below 0 or above 120 years",
    "site_unseen": "nobody of this site was in the training, or the site of a new person is unknown",
    "field_strength_unseen": "nobody scanned at this field strength was in the training",
    "sex_unknown": "brain_age is the mean over both sexes",
    "sex_unseen": "nobody of this sex was in the training",
    "smri_missing": "scored without structural MRI, which the model takes",
    "fmri_missing": "scored without functional MRI, which the model takes",
    "smri_features_imputed": "some structural features took the training median",
    "fmri_features_imputed": "some functional features took the training median",
    "codes_far_from_training": "mahalanobis above the 99th percentile of held-out people",
    "reconstruction_poor_smri": "recon_z_smri above the 99th percentile of held-out people",
    "reconstruction_poor_fmri": "recon_z_fmri above the 99th percentile of held-out people",
    "features_out_of_range_smri": "out_of_range_smri above the 99th percentile of held-out people",
    "features_out_of_range_fmri": "out_of_range_fmri above the 99th percentile of held-out people",
    "id_in_training": "the identifier is of the training; sex or age is another, and so is the data",
    "model_barely_follows_age": "the slope of the model's held-out predictions on age is below 0.3",
    "model_no_better_than_mean": "on held-out people the model is not told to err less than a constant age",
    "predictions_nearly_constant": "the predictions of the whole table hardly differ",
    "qc_flag": "a measure of image quality is worse than usual: see qc_reasons",
    "qc_fail": "a measure of image quality is too bad to be used: see qc_reasons",
}
"""Every flag, with its meaning."""


def join_flags(raised: Mapping[str, np.ndarray], among: np.ndarray) -> np.ndarray:
    """The flags of each row, separated by semicolons, in the order of `raised`; "" outside `among`."""
    unknown = set(raised) - set(FLAGS)
    assert not unknown, f"flags without a meaning: {unknown}"
    number = np.zeros(len(among), dtype=np.int64)  # a bit for each flag: few combinations occur
    for place, mask in enumerate(raised.values()):
        number |= (np.asarray(mask, dtype=bool) & among).astype(np.int64) << place
    combinations, which = np.unique(number, return_inverse=True)
    texts = [
        ";".join(name for place, name in enumerate(raised) if combination >> place & 1)
        for combination in combinations.tolist()
    ]
    found: np.ndarray = np.array(texts, dtype=object)[which]
    return found
