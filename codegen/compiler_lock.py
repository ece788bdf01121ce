"""TVM's compiler serves one thread at a time: what it builds on is kept in variables of the process.

TensorIR's builder keeps a stack of frames there, and CUDA source is caught by replacing a global function. A thread that compiles
holds a lock, so that several threads can use the API.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from aprgraph.graph.interrupts import held

_LOCK = threading.RLock()


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """The block uses TVM's compiler. It calls Python, and an interrupt there would become an error of TVM's: it comes at the end."""
    with _LOCK, held(may_end=True):
        yield
