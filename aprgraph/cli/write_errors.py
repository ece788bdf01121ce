"""What a command says and does where something cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.message import join_messages


@contextlib.contextmanager
def written_by(option: str, *, force: bool = False) -> Iterator[None]:
    """What is written inside goes where ``option`` says, so that errors about the place name it; and --force, if the command has it."""
    try:
        yield
    except AprgraphError as error:
        if error.place is None:
            raise
        words = {"force": "add --force"} if force else {}
        raise type(error)(error.place.text(f"give another place with {option}", **words)) from None


class Afterwards:
    """Holds back errors of what is written beside a verdict, so that the verdict is printed first: an analysis is not thrown away."""

    def __init__(self) -> None:
        self._errors: list[AprgraphError] = []

    @contextlib.contextmanager
    def written_by(self, option: str) -> Iterator[None]:
        """As the function of that name, but the error is kept for ``finish``."""
        try:
            with written_by(option):
                yield
        except AprgraphError as error:
            self._errors.append(error)

    def finish(self) -> None:
        """Raise what was held back."""
        if len(self._errors) > 1:
            raise AprgraphError(join_messages("; ", [error.message for error in self._errors]))
        if self._errors:
            raise self._errors[0]
