"""The user's cache: compiled kernels, which all models share, and the artifacts of `aprgraph run MODEL`."""
