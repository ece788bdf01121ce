"""Opening bad model files: what may come of it, and what the message must look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprgraph.graph.errors import AprgraphError, ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from tests.support.gguf_bytes import ARRAY, BOOL, STRING, RawGGUF, array, small_llama

#: What a bad model file may raise. GraphError is not among them: it would mean that the checks of the file let it through.
EXPECTED = (ModelFileError, ModelError, UnsupportedModelError)


def write(tmp_path: Path, file: RawGGUF | bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.pack())
    return path


def checked(error: AprgraphError, path: Path) -> AprgraphError:
    """``error``, whose message must be one line of readable length that begins with the path."""
    message = str(error)
    assert message.startswith(f"{path}: "), message
    assert "\n" not in message, message
    assert len(message) < len(str(path)) + 800, message  # it may list the families
    return error


def failure(path: Path) -> AprgraphError:
    """The error of opening the file and building its graph."""
    with pytest.raises(EXPECTED) as caught:
        build_graph(load_model(path))
    return checked(caught.value, path)


def attempt(path: Path) -> AprgraphError | None:
    """The error of opening and building, if it is one that a bad file may raise; anything else goes through."""
    try:
        build_graph(load_model(path)).ancestors(())
    except EXPECTED as error:
        return checked(error, path)
    return None


def with_odd_keys() -> RawGGUF:
    """The small model with arrays and strings in its metadata, the last of them an array of strings."""
    file = small_llama()
    file.set("general.name", STRING, "small")
    file.keys["flags"] = (ARRAY, array(BOOL, [True, False, True]))
    file.keys["merges"] = (ARRAY, array(STRING, ["a b", "", "a long string between short ones", "c"]))
    return file
