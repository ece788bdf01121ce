"""Model files: one reader a kind, behind one interface (source.py)."""

from aprgraph.graph.sources.open import open_source
from aprgraph.graph.sources.source import Part, Source, TensorFault, TensorInfo

__all__ = ["Part", "Source", "TensorFault", "TensorInfo", "open_source"]
