"""Experiment configurations: plain data, loaded in milliseconds."""
