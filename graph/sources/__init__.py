"""Model files: one reader a kind, behind one interface (source.py)."""

from aprgraph.graph.sources.open import open_source
from aprgraph.graph.sources.source import Source, TensorFault, TensorInfo

__all__ = ["Source", "TensorFault", "TensorInfo", "open_source"]
