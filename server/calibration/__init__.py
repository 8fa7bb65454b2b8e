"""Fits temperatures, weights and cascades on data, and tells how good they are on other data."""
