"""Every error that aprgraph raises on purpose.

    AprgraphError                 anything below; the command line prints it as one line and exits with 2
    ├── ModelFileError            a GGUF file that cannot be read as one, or whose tensors lie where they cannot
    ├── UnsupportedModelError     a sound file that asks for something aprgraph does not have: architecture, block type
    ├── ModelError                metadata and tensors that do not describe a model: missing, or sizes that do not fit
    ├── PlanError                 taps, layers or steps that cannot be parsed, or that name what the model lacks
    ├── GraphError                a graph that breaks its own rules (the verifier), or text that is not a graph
    ├── TokenError                prompts and token lists that cannot be run on this model
    ├── ArtifactError             a compiled artifact that is missing, stale, damaged, or for another CPU
    ├── ToolchainError            something outside the package is missing or fails (a linker, a CUDA compiler)
    ├── DeviceError               a GPU or its driver that is missing, fails, or has not the memory
    ├── RemoteError               a TVM RPC server that cannot be reached, or that failed
    ├── ExecutorError             worker processes that cannot be started, or that were lost again and again
    ├── NonFiniteError           NaN where a choice has to be made: among experts, or among tokens
    ├── TraceError                APRT files, manifests and trace directories that cannot be read or written
    │   └── NotRecordedError      a tensor that a trace does not hold; a KeyError too
    └── ComparisonError           two traces that cannot be compared

Each message says what is wrong, where, what was expected, and what to do.
"""

from __future__ import annotations

import errno
import reprlib
from dataclasses import dataclass

from aprgraph.graph.arguments import Argument
from aprgraph.graph.message import Message, Words, join_messages
from aprgraph.graph.words import shortened

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


def shown(value: object) -> str:
    """``repr(value)``, shortened: a damaged file can hold a string of any length where a message quotes it."""
    return _REPR.repr(value)


def quoted(text: str) -> str:
    """``text`` in quotes as somebody typed it, shortened: of a regular expression, ``repr`` would double each backslash."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{shortened(text, _REPR.maxstring)}{mark}"


@dataclass(frozen=True)
class PlaceProblem:
    """Why something cannot be written where it was to go, and what helps beside another place.

    ``forcible``: it can be written there all the same, where the caller says so. The words for that, and for another place, depend on who
    asks: a Python program has ``force=True``, a command an option; so the message is put together last.
    """

    what: str
    remedies: tuple[str, ...] = ()
    forcible: bool = False

    def text(self, another: str = "give another place", force: str = "give force=True") -> Message:
        """The message. ``another`` says how to give another place, ``force`` how to write over what is there."""
        remedies = [*self.remedies, *([f"{force} to write there all the same"] if self.forcible else []), another]
        others = join_messages(", ", remedies[:-1])
        return Message(self.what, "; ", others, ", or " if others else "", remedies[-1])


class AprgraphError(Exception):
    """Base of all errors that a user can cause. The message is one line: what, where, what was expected, what to do.

    It is put together from texts and Arguments, which it names as a Python program writes them; ``text`` says them in other words.
    ``message`` is what another message can be put together from. ``place`` is there where something cannot be written.
    """

    place: PlaceProblem | None = None

    def __init__(self, *parts: str | Argument) -> None:
        self.message = Message(*parts)
        super().__init__(self.message)

    def text(self, words: Words) -> str:
        """The message with every argument in ``words``, such as an option of the command line."""
        return self.message.text(words)

    @classmethod
    def at_place(cls, what: str, *remedies: str, forcible: bool = False) -> AprgraphError:
        """The error, of this class, that a PlaceProblem is."""
        problem = PlaceProblem(what, remedies, forcible)
        error = cls(problem.text())
        error.place = problem
        return error

    @classmethod
    def unwritable(cls, path: object, error: OSError) -> AprgraphError:
        """The error for a file or folder that the system does not let us write."""
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return cls.at_place(f"{path}: cannot be written: {error.strerror or error}", *(["free some space"] if is_full else []))


class ModelFileError(AprgraphError):
    """The file is not a readable GGUF file."""


class UnsupportedModelError(AprgraphError):
    """The file is sound, but needs an architecture, a block type or a feature that aprgraph does not have."""


class ModelError(AprgraphError):
    """The file's metadata and tensors do not fit together into a model."""


class PlanError(AprgraphError):
    """A tap plan that cannot be parsed, or that names stages or layers which the model does not have."""


class GraphError(AprgraphError):
    """A graph that breaks a rule of its ops, or text that does not parse as a graph."""


class TokenError(AprgraphError):
    """Tokens or a prompt that cannot be run on the model."""


class ArtifactError(AprgraphError):
    """A compiled artifact that cannot be used."""


class ToolchainError(AprgraphError):
    """A program outside the package is needed and was not found, or failed."""


class DeviceError(AprgraphError):
    """A GPU or its driver that is not there, fails, or has not the memory that a run needs."""


class RemoteError(AprgraphError):
    """A TVM RPC server that cannot be reached, or that failed."""


class ExecutorError(AprgraphError):
    """Worker processes, here or on other machines, that cannot be started, or that were lost again and again."""


class NonFiniteError(AprgraphError):
    """A choice among experts or tokens whose scores are NaN. What was recorded up to there is a whole trace."""


class TraceError(AprgraphError):
    """A trace file or directory that cannot be read or written."""


class NotRecordedError(TraceError, KeyError):
    """A tensor that a trace does not hold: ``trace["layer3.ffn_out"]``, or ``trace.tensor("ffn_out", 3)``."""

    def __str__(self) -> str:
        """The message; a KeyError would quote it."""
        return str(self.message)


class ComparisonError(AprgraphError):
    """Two traces that cannot be compared."""
