"""From CUDA source to host code and to fat binaries of it. Standard library only: nvcc.py runs without this project's packages."""
