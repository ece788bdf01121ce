"""Running and reading: sessions, taps, APRT files, traces, tokenizer, the float64 reference, the differ.

Modules here import TVM only where a compiled program runs (``tvm_session``), and never the compiler.
"""
