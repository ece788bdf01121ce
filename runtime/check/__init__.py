"""What is wrong with a model file before anybody runs it: `aprgraph check`, and where a NaN of the weights lies."""

from aprgraph.runtime.check.checker import check
from aprgraph.runtime.check.finding import RULES, Finding, Level, Rule
from aprgraph.runtime.check.report import CheckReport

__all__ = ["RULES", "CheckReport", "Finding", "Level", "Rule", "check"]
