"""Where work runs: one machine, or SLURM, to which submitit submits."""
