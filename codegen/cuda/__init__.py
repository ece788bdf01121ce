"""CUDA: which GPUs a kernel library is for, the compilers that make its fat binary, and a reader of fat binaries.

Nothing here needs a GPU or a driver: kernels are compiled, and their images read, on any machine.
"""
