"""How good a prediction is, and what a simple model would have reached."""
