"""A day of changing traffic: an allocation that follows it against the best one that does not."""
