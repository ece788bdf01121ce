"""Many runs: the cells of a matrix of prompts, models, targets, arithmetics and overrides, each computed once and kept in a store.

``matrix`` reads what is asked for, ``cells`` says what a cell is and what names it, ``work`` is what a worker does, ``store`` keeps the
cells, ``head`` sends out what is missing, ``findings`` reads what is there, and ``page`` shows it.
"""
