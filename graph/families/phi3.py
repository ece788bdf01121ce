"""The `phi3` architecture: Phi-3 and Phi-4 mini and medium (arXiv:2404.14219).

q, k, v and gate, up come as one tensor each. Long-context models have two sets of RoPE factors (LongRoPE, arXiv:2402.13753).
Where a file names a sliding window, all layers have it, as in the original; llama.cpp ignores it.
"""

from aprgraph.graph.families.base import Family, SlidingWindow

PHI3 = Family("phi3", "Phi-3, Phi-4 mini", rope_pairing="halves", fused_gate_up=True, window=SlidingWindow(period=0))
