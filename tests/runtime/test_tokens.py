"""Token ids, as text and as lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import TokenError
from aprgraph.graph.model import Model, load_model
from aprgraph.runtime.tokens import check_tokens, parse_tokens


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Model:
    """288 tokens, a context of 64."""
    return load_model(tiny_model())


def test_text() -> None:
    assert parse_tokens("1,2,3") == [1, 2, 3]
    assert parse_tokens(" 7 ,\t0") == [7, 0]


@pytest.mark.parametrize("text", ["", ",", "1,", "1,,2", "-1", "+1", "1.0", "0x1", "a", "1 2", "1_000", "１", "9" * 13])
def test_text_that_is_no_list_of_ids(text: str) -> None:
    with pytest.raises(TokenError, match="expected token ids separated by commas, such as 1,2,3"):
        parse_tokens(text)


@pytest.mark.parametrize("tokens", [[0, 287], (5,), range(64), np.array([1, 2]), [np.int64(3)]])
def test_ids_become_python_integers(model: Model, tokens: Sequence[int]) -> None:
    found = check_tokens(tokens, model)
    assert found == tuple(int(token) for token in tokens)
    assert {type(token) for token in found} == {int}


@pytest.mark.parametrize(("tokens", "message"), [
    ([], "no tokens to run: the prompt is empty"),
    (np.array([], np.int64), "no tokens to run"),
    ([1, 288], r"token 288 at position 1 is outside the vocabulary of .*\.gguf, expected 0 to 287"),
    ([-1], "token -1 at position 0"),
    ([1 << 40], "token 1099511627776 at position 0"),
    (range(65), r"65 tokens, but .*\.gguf has a context of 64; shorten the prompt"),
    ([1.5], "expected a list of token ids, which are whole numbers"),
    ([1, "2"], "expected a list of token ids"),
    (np.array([[1, 2]]), "expected a list of token ids"),
    (7, "expected a list of token ids"),
])  # fmt: skip
def test_ids_that_cannot_be_run(model: Model, tokens: Sequence[int], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        check_tokens(tokens, model)
