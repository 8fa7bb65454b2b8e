"""Measurements by a server that runs for their length."""
