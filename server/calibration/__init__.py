"""Fits temperatures, weights and cascades on data, and evaluates them on held-out data."""
