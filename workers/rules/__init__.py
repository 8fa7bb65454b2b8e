"""Combination rules: how the members' predictions become one answer.

They run in the combiner. A built-in rule is a function of the predictions of the members that an
answer rests on, their weights, and the array to write the answer to; `RULES` names them.
`combination` makes of an ensemble's spec what applies its rule, built-in or not. What each rule
does, with its formula and source, is in docs/combination.md.
"""

from workers.rules.applying import Applied, Combination, combination
from workers.rules.catalogue import RULES, TRAITS, Traits, is_custom
from workers.rules.errors import RuleError

__all__ = [
    "RULES",
    "TRAITS",
    "Applied",
    "Combination",
    "RuleError",
    "Traits",
    "combination",
    "is_custom",
]
