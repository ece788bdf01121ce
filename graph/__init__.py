"""What a model computes: graph, ops, stages, plans, model families, passes, textual form, pictures.

Nothing here imports TVM or the runtime.
"""
