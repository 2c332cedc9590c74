"""From a store to a model bundle."""
