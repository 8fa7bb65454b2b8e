"""Fills a library of members by training them, `ensembled grow`."""
