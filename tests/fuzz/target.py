"""What a fuzzer of one kind of input has to say of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import ClassVar


class Target(ABC):
    """One kind of input: sound files in a folder, how they are damaged, and who reads them.

    ``file`` is the one that is damaged most, in place of which a file of the corpus is put. ``commands`` are the command lines that read
    it, in that folder; one of them runs in one of ``each`` cases.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    commands: ClassVar[Sequence[str]] = ()
    each: ClassVar[int] = 10

    def __init__(self, folder: Path) -> None:
        """Make the sound files in ``folder``, which is empty."""
        self.folder = folder
        self.path = folder / self.file

    @abstractmethod
    def mutate(self, random: Random) -> None:
        """Write damaged files in place of the last ones."""

    @abstractmethod
    def read(self) -> None:
        """Read them by the Python API. Raises AprgraphError, or nothing."""
