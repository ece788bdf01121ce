"""What a caller can give, as errors name it: arguments to a Python program, options on the command line.

A message is put together from texts and Arguments (see ``AprgraphError``), so that nobody has to find the words again
in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Argument:
    """The argument ``name`` of the Python API, and perhaps its ``value``, as a command line writes it.

    ``in_python`` is the value as Python writes it, where that differs.

    ``call`` is there for what a Python program gives by a call, and not as an argument.
    """

    name: str
    value: str | None = None
    in_python: str | None = None
    call: str | None = None

    def given(self, value: object, in_python: str | None = None) -> Argument:
        """The argument with a value, and how a Python program writes that, where it is not the same."""
        return replace(self, value=str(value), in_python=in_python)

    def __str__(self) -> str:
        """As a Python program writes it: ``taps=``, ``layers='0..2'``."""
        return self.call or f"{self.name}={self.in_python or self.value or ''}"


ARCHITECTURES = Argument("architectures")
CPU = Argument("cpu")
FAMILY = Argument("family", "FILE.py", call="aprgraph.families.load_family_file('FILE.py')")
IGNORE = Argument("ignore")
LAYERS = Argument("layers")
MAX_TOKENS = Argument("max_tokens")
MODEL = Argument("model")
OVERRIDES = Argument("overrides")
PREFILL_CHUNK = Argument("prefill_chunk")
PROFILE = Argument("profile")
PROMPT = Argument("prompt")
ROOM = Argument("room")
RPC = Argument("rpc")
STATS_ONLY = Argument("stats_only")
STEPS = Argument("steps")
TAPS = Argument("taps")
TARGET = Argument("target")
TOKENS = Argument("tokens")
