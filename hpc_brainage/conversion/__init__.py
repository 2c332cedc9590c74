"""From a cohort to a store: init, parts, finalise."""
