"""TVM's compiler serves one thread at a time: what it builds on is kept in variables of the process.

Relax keeps a stack of builders there, and CUDA source is caught by replacing a global function. A thread that compiles
holds this lock, so that several threads can use the API.
"""

from __future__ import annotations

import threading

COMPILER_LOCK = threading.RLock()
