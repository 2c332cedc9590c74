"""From a model bundle and a store to a score table."""
