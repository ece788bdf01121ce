"""Kernels: what is asked for (base), and what computes it (cpu, cuda), one table of ops each."""

from aprgraph.codegen.kernels.base import KernelRequest, request_of, requests_of

__all__ = ["KernelRequest", "request_of", "requests_of"]
