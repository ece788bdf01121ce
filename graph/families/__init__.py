"""Model families, one file each; ``FAMILIES`` is the table that the graph builder goes by."""

from aprgraph.graph.families.base import Family, Hyperparameters, find_family, read_hyperparameters
from aprgraph.graph.families.llama import LLAMA

FAMILIES: dict[str, Family] = {family.architecture: family for family in (LLAMA,)}

__all__ = ["FAMILIES", "Family", "Hyperparameters", "find_family", "read_hyperparameters"]
