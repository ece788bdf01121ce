"""What a caller can give, as errors name it: arguments to a Python program, options on the command line.

A message is put together from texts and Arguments (see ``Message``), so that nobody has to find the words again
in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Python 3.10 has no Self
    from typing_extensions import Self


@dataclass(frozen=True)
class Argument:
    """The argument ``name`` of the Python API, and perhaps its ``value``, as a command line writes it.

    ``in_python`` is the value as Python writes it, where that differs. ``call`` is there for
    what a Python program does otherwise than with an argument of that name.
    """

    name: str
    value: str | None = None
    in_python: str | None = None
    call: str | None = None

    def given(self, value: object, in_python: str | None = None) -> Self:
        """The argument with a value, and how a Python program writes that, where it is not the same."""
        return replace(self, value=str(value), in_python=in_python)

    def __str__(self) -> str:
        """As a Python program writes it: ``taps=``, ``layers='0..2'``."""
        return self.call or f"{self.name}={self.in_python or self.value or ''}"


@dataclass(frozen=True)
class Command(Argument):
    """A command of the command line, with the ``value`` and the ``options`` that it is to be given.

    ``in_python`` is what does the same in Python. Where nothing does it is None, and a Python program is told of the
    command, which is installed with the package.
    """

    options: tuple[Argument, ...] = ()

    def with_options(self, *options: Argument, in_python: str) -> Command:
        """The command with options, and what does the same in Python."""
        return replace(self, options=options, in_python=in_python)

    def __str__(self) -> str:
        """What does the same in Python: ``aprgraph.check('model.gguf')``."""
        return self.in_python or self.line(str)

    def line(self, words: Callable[[Argument], str]) -> str:
        """``aprgraph check model.gguf``, with options in ``words``."""
        return " ".join(("aprgraph", self.name, *([] if self.value is None else [self.value]), *map(words, self.options)))


@dataclass(frozen=True)
class Again(Command):
    """The command that somebody gave, once more with ``options`` beside those that it had."""


ARITHMETIC = Argument("arithmetic")
ARCHITECTURES = Argument("architectures")
CHAT = Argument("chat", call="encode_chat")
CPU = Argument("cpu")
EXECUTOR = Argument("executor")
FAMILY = Argument("family", "FILE.py", call="aprgraph.families.load_family_file('FILE.py')")
FINGERPRINT = Argument("fingerprint")
IGNORE = Argument("ignore")
JSON = Argument("json", call="to_json()")
LAYERS = Argument("layers")
MAX_TOKENS = Argument("max_tokens")
MODEL = Argument("model")
MODEL_A = Argument("model_a")
MODEL_B = Argument("model_b")
NAMES = Argument("names")
OVERRIDES = Argument("overrides")
PREFILL_CHUNK = Argument("prefill_chunk")
PROFILE = Argument("profile")
PROMPT = Argument("prompt")
QUICK = Argument("quick", call="weights=False")
REPRO = Argument("repro", call="write_repro")
ROOM = Argument("room")
RPC = Argument("rpc")
SPLIT = Argument("split")
STATS_ONLY = Argument("stats_only", in_python="True")
STEPS = Argument("steps")
TAPS = Argument("taps")
TARGET = Argument("target")
TOKENS = Argument("tokens")

AGAIN = Again("again")
AUDIT = Command("audit", in_python="aprgraph.audit")
CHECK = Command("check", in_python="aprgraph.check")
COMPILE = Command("compile", in_python="LoadedModel.compile")
DIFF = Command("diff", in_python="aprgraph.diff")
INSPECT = Command("inspect")
MODELS = Command("models")
RUN = Command("run", in_python="CompiledModel.run")
TRUST = Command("trust", "DIR", in_python="aprgraph.trust")
WEIGHTS = Command("weights", in_python="aprgraph.weights")
