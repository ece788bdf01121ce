"""Model families, one file each; ``FAMILIES`` is the table that the graph builder goes by."""

from aprgraph.graph.families.base import Experts, Family, find_family
from aprgraph.graph.families.gemma3 import GEMMA3
from aprgraph.graph.families.hyperparameters import Hyperparameters, read_hyperparameters
from aprgraph.graph.families.llama import LLAMA
from aprgraph.graph.families.phi3 import PHI3
from aprgraph.graph.families.qwen2 import QWEN2
from aprgraph.graph.families.qwen2moe import QWEN2MOE
from aprgraph.graph.families.qwen3 import QWEN3
from aprgraph.graph.families.qwen3moe import QWEN3MOE

FAMILIES: dict[str, Family] = {family.architecture: family for family in (LLAMA, QWEN2, QWEN2MOE, QWEN3, QWEN3MOE, GEMMA3, PHI3)}

__all__ = ["FAMILIES", "Experts", "Family", "Hyperparameters", "find_family", "read_hyperparameters"]
