"""Measurements, each with what is needed to repeat and to trust it."""
