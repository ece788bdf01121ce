"""Messages keep what they name, however they are put together and copied."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from aprgraph.graph.arguments import CHECK, COMPILE, CPU, INSPECT, JSON, LAYERS, TAPS, TOKENS, Argument
from aprgraph.graph.errors import PlanError
from aprgraph.graph.message import Message, join_messages, message_from_json, message_to_json, text_in
from aprgraph.graph.words import as_sentence
from aprgraph.runtime.diff.caveats import Caveat

MESSAGE = Message("give ", TOKENS, " too")


def upper(argument: Argument) -> str:
    return argument.name.upper()


def test_a_message_is_what_a_python_program_reads() -> None:
    assert MESSAGE == "give tokens= too"
    assert str(Message(LAYERS.given("0..2", "'0..2'"), JSON, CHECK.given("m", "aprgraph.check('m')"))) == (
        "layers='0..2'to_json()aprgraph.check('m')"
    )
    assert str(COMPILE.with_options(CPU, in_python="compile(cpu=…)")) == "compile(cpu=…)"
    assert str(INSPECT) == "aprgraph inspect"  # Python has nothing of that kind


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (MESSAGE, "give TOKENS too"),
        (Message("a: ", MESSAGE, "; ", TAPS), "a: give TOKENS too; TAPS"),
        (join_messages("; ", ["a", MESSAGE, MESSAGE]), "a; give TOKENS too; give TOKENS too"),
        (join_messages("; ", []), ""),
        (as_sentence(MESSAGE), "Give TOKENS too."),
        (as_sentence(Message(TAPS, " is empty?")), "TAPS is empty?"),
        (as_sentence(Message()), "."),
        (MESSAGE.removeprefix("give "), "TOKENS too"),
        (MESSAGE.removeprefix("take "), "give TOKENS too"),
        (MESSAGE.removeprefix("give tokens="), " too"),
        (Caveat(MESSAGE, "!"), "give TOKENS too!"),
        (PlanError("a: ", MESSAGE).message, "a: give TOKENS too"),
        (PlanError(PlanError("a: ", MESSAGE).message, "; ", TAPS).message, "a: give TOKENS too; TAPS"),
        ("no message", "no message"),
    ],
)
def test_the_words_of_another_reader(message: str, text: str) -> None:
    assert text_in(upper, message) == text


def test_a_file_keeps_what_is_named() -> None:
    for message in (MESSAGE, Message(LAYERS.given("0..2", "'0..2'"), ": no"), "no message"):
        document = json.loads(json.dumps(message_to_json(message)))
        again = message_from_json(document)
        assert (again, again.parts) == (message, Message(message).parts)
    assert message_to_json("no message") == "no message"
    with pytest.raises(TypeError):
        message_from_json([{"other": 1}])


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_name_the_same(again: object) -> None:
    assert callable(again)
    copied = again(Caveat(MESSAGE))
    assert (type(copied), copied, text_in(upper, copied)) == (Caveat, MESSAGE, "give TOKENS too")
    assert again(PlanError(MESSAGE)).text(upper) == "give TOKENS too"
