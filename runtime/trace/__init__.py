"""Traces: what a run recorded, as a directory of APRT files and a manifest.

    tensors -> writer -> APRT files, and the manifest last -> reader; the arrays of another program take the same road

``aprt`` is the format of one file, ``manifest`` that of ``trace.json``, ``destination`` what may be replaced where a trace is
to go.
"""
