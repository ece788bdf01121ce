"""What a model family of your own is declared with; docs/families.md walks through one.

from aprgraph.families import Llama, real, register

@register
class MyModel(Llama):
    \"\"\"My Model (arXiv:2401.00000): what sets it apart.\"\"\"

    architecture = "mymodel"
"""

from __future__ import annotations

from aprgraph.graph.builder import GraphBuilder, Heads
from aprgraph.graph.families import FAMILIES, Decoder, Family, Mixture, load_family_file, register
from aprgraph.graph.families.gemma3 import Gemma3
from aprgraph.graph.families.llama import Llama
from aprgraph.graph.families.numbers import Reading, flag, number, per_layer, real, same_in_all
from aprgraph.graph.families.phi3 import Phi3
from aprgraph.graph.families.qwen2 import Qwen2
from aprgraph.graph.families.qwen2moe import Qwen2Moe
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.qwen3moe import Qwen3Moe
from aprgraph.graph.families.rope_scaling import Rope, read_rope
from aprgraph.graph.families.window import CheckpointWindows, Windows
from aprgraph.graph.ops.registry import elementwise, rowwise
from aprgraph.graph.outline import Outline, outline, small_outline
from aprgraph.graph.stages import Stage, StageKind

__all__ = [
    "FAMILIES",
    "CheckpointWindows",
    "Decoder",
    "Family",
    "Gemma3",
    "GraphBuilder",
    "Heads",
    "Llama",
    "Mixture",
    "Outline",
    "Phi3",
    "Qwen2",
    "Qwen2Moe",
    "Qwen3",
    "Qwen3Moe",
    "Reading",
    "Rope",
    "Stage",
    "StageKind",
    "Windows",
    "elementwise",
    "flag",
    "load_family_file",
    "number",
    "outline",
    "per_layer",
    "read_rope",
    "real",
    "register",
    "rowwise",
    "same_in_all",
    "small_outline",
]
