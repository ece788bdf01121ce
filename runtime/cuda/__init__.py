"""Runs CUDA artifacts: the driver and its errors, memory, and a session whose weights, values and caches lie on a GPU."""
