"""Training: the loop and the mechanisms it calls."""
