"""Copies of members at a lower precision, `ensembled variants`."""
