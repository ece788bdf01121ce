"""Checkpoints of Hugging Face transformers: config.json, safetensors, and how both are said in GGUF's vocabulary."""

from aprgraph.graph.sources.checkpoint.checkpoint import Checkpoint
from aprgraph.graph.sources.checkpoint.places import is_checkpoint

__all__ = ["Checkpoint", "is_checkpoint"]
