"""From a graph to machine code, with Apache TVM: kernels, block decoders, the program of a plan, artifacts.

TVM is imported inside the modules that compile, never by importing this package.
"""
