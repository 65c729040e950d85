"""Configurations that change one thing of the recipe."""
