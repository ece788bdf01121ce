"""The user's cache: kernels that were compiled, shared by all models, and the artifacts of `aprgraph run MODEL`."""
