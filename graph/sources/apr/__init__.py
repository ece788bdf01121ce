"""Model files of `apr`, version 2: how they are laid out, and how they are said in GGUF's vocabulary."""

from aprgraph.graph.sources.apr.apr_file import MAGICS, AprFile

__all__ = ["MAGICS", "AprFile"]
