"""Runs an artifact on a TVM RPC server: where it is, the connection, tensors there, and the engine that walks a graph over it."""
