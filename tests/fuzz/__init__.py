"""Damaged inputs of every kind, made field by field from sound ones: ``make fuzz``, and a short run in ``make test``.

What may come of one is a result, or an AprgraphError in one line. Anything else is a finding: another exception, a warning, a
process that dies, 10 seconds of processor time, a gigabyte of memory.
"""
