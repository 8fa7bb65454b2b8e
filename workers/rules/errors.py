"""What goes wrong with rules, in the combiner and where configurations are checked."""

__all__ = ["RuleError"]


class RuleError(Exception):
    """A rule can't be made, or has failed on some rows; the text is one line."""
