"""Combination rules: how the members' predictions become one answer.

They run in the combiner. A built-in rule is a function of the predictions of the members that an
answer rests on, their weights, and the array to write the answer to; `RULES` names them.
`load_rule` returns the rule of an ensemble, built-in or not. docs/combination.md describes each
rule with its formula and source.
"""

from workers.rules.catalogue import RULES, TRAITS, RuleError, Traits, is_custom
from workers.rules.combination import CombinationRule, RuleFunction, Stack, load_rule

__all__ = [
    "RULES",
    "TRAITS",
    "CombinationRule",
    "RuleError",
    "RuleFunction",
    "Stack",
    "Traits",
    "is_custom",
    "load_rule",
]
