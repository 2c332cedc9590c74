"""Where work runs: one machine, or SLURM through submitit."""
