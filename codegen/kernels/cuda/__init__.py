"""CUDA kernels by op."""
