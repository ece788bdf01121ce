"""The bug zoo: faults put in on purpose, in every family that can have them, and whether they are found and named.

`python -m tests.zoo > docs/bug-zoo.md` writes the table of the results; tests/zoo/test_*.py hold that it is true.
"""
