"""Where scans come from: one reader per layout, each returns a `Cohort`."""
