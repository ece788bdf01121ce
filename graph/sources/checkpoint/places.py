"""Which files belong to a checkpoint, by the path that somebody gave of it: its folder, or a file in it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.input_file import read_input
from aprgraph.graph.json_documents import parse_json
from aprgraph.graph.sources import adapter
from aprgraph.graph.sources.pieces import note_read
from aprgraph.graph.words import listed

CONFIG = "config.json"
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
_SUFFIX = ".safetensors"
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.DOTALL | re.ASCII)
#: A JSON file of a checkpoint is no larger; tokenizer.json of 256,000 tokens has 33 MB.
_MOST_JSON = 256 << 20
#: Lists and objects of a config.json lie no deeper in each other; those of transformers up to 4.
_MOST_DEPTH = 64
_NAMED = 4
#: Characters of the name of a file, which systems bound at 255 bytes.
_MOST_NAME = 200
_FLOAT = "__float__"


@dataclass(frozen=True)
class Places:
    """``path`` is what messages and manifests call the model: its folder, or the one file that was given."""

    path: Path
    folder: Path
    shards: tuple[Path, ...]
    #: Sentences of what lies beside them.
    notices: tuple[str, ...] = ()
    #: The tensors that the index names.
    indexed: frozenset[str] = frozenset()

    @property
    def stem(self) -> str:
        """What the model is called: as its folder, unless one file among others was given."""
        return self.path.resolve().name if self.path == self.folder else self.path.stem


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a folder with a config.json and safetensors, that config.json, or such a file beside one."""
    folder, config = path.parent, path.parent / CONFIG
    try:
        if path.is_dir():
            return (path / CONFIG).is_file() and ((path / INDEX).is_file() or any(_with_weights(path)))
        if path.name == CONFIG:
            return path.is_file() and ((folder / INDEX).is_file() or any(_with_weights(folder)))
        return path.suffix == _SUFFIX and path.name not in adapter.WEIGHTS and path.is_file() and config.is_file()
    except (OSError, ValueError):  # what cannot be looked into; a path with a NUL in it
        return False


def _with_weights(folder: Path) -> Iterator[Path]:
    """The files of safetensors in a folder, but those of an adapter."""
    return (file for file in folder.glob(f"*{_SUFFIX}") if file.name not in adapter.WEIGHTS)


def find_places(path: Path) -> Places:
    """The files of the checkpoint at ``path``. Raises ModelFileError for shards that are missing or in doubt."""
    folder = path if path.is_dir() else path.parent
    if folder.name in ("", ".."):
        folder = folder.resolve()
    places = _files(path, folder)
    if (folder / adapter.CONFIG).is_file():
        advice = adapter.adapter_in(folder).advice
        beside = f"{adapter.CONFIG}: an adapter lies beside the model, and is not applied; where it is to be, {advice}"
        return replace(places, notices=(*places.notices, beside))
    return places


def _files(path: Path, folder: Path) -> Places:
    if (folder / INDEX).is_file():
        shards, indexed = _indexed(folder)
        if (path.is_dir() or path.name == CONFIG) and WHOLE not in shards and (folder / WHOLE).is_file():
            others = "which are there too" if any((folder / name).is_file() for name in shards) else "which are not there"
            notice = f"{WHOLE} counts, as in transformers, and not the files of {INDEX}, {others}: programs differ in which they take"
            return Places(folder, folder, (folder / WHOLE,), (notice,))
        if path.is_dir() or path.name == CONFIG or path.name in shards:
            missing = [name for name in shards if not (folder / name).is_file()]
            if missing:
                verb = "is" if len(missing) == 1 else "are"
                raise ModelFileError(f"{folder}: {listed(missing, _NAMED)} of {INDEX} {verb} not there; download the missing files")
            return Places(folder, folder, tuple(folder / name for name in shards), indexed=indexed)
    if path.suffix == _SUFFIX and not path.is_dir():
        parts = _of_one_set(path)
        return Places(folder if path.name == WHOLE or len(parts) > 1 else path, folder, parts)
    found = sorted(_with_weights(folder))
    whole = [file for file in found if file.name == WHOLE] or found
    parts = _of_one_set(whole[0]) if whole else ()
    if not set(whole) <= set(parts):
        raise ModelFileError(
            f"{folder}: has {listed([file.name for file in whole], _NAMED)}, and no {INDEX} that says which belong together; give one of "
            "the files, or download the index"
        )
    return Places(folder, folder, parts)


def _of_one_set(file: Path) -> tuple[Path, ...]:
    """The parts of the set that a file without an index is one of by its name; the file alone if it is of none.

    Raises ModelFileError for parts that are not there.
    """
    matched = _SHARD.fullmatch(file.name)
    count = int(matched["count"]) if matched else 1
    if matched is None or count < 2 or not 1 <= int(matched["number"]) <= count:
        return (file,)
    parts = [file.with_name(f"{matched['stem']}-{number:05}-of-{count:05}{_SUFFIX}") for number in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ModelFileError(
            f"{file}: this is part {int(matched['number'])} of {count} by its name; {listed(missing, _NAMED)} {verb} not beside it, and no "
            f"{INDEX} that says otherwise; download the missing files"
        )
    return tuple(parts)


def _indexed(folder: Path) -> tuple[list[str], frozenset[str]]:
    """The names of the shards in the index, each once, and of the tensors. Raises ModelFileError."""
    where = folder / INDEX
    weights = read_json(where).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelFileError(f"{where}: weight_map is {shown(weights)}, expected the file of each tensor; download it again")
    for name in weights.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(_SUFFIX) or "\0" in name or len(name) > _MOST_NAME:
            raise ModelFileError(f"{where}: names the file {shown(name)}, expected one such as model-00001-of-00002.safetensors beside it")
    return list(dict.fromkeys(weights.values())), frozenset(weights)


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object of a config.json, which is copied and compared part by part. Raises ModelFileError."""
    config = read_json(path)
    inner: list[Any] = [config]
    for _ in range(_MOST_DEPTH):
        inner = [part for one in inner for part in (one.values() if isinstance(one, dict) else one) if isinstance(part, (dict, list))]
        if not inner:
            return {name: _with_floats(value) for name, value in config.items()}
    raise ModelFileError(f"{path}: its lists and objects lie more than {_MOST_DEPTH} deep in each other; download the file again")


def _with_floats(value: Any) -> Any:
    """A value with the floats for which JSON has no word, as transformers 5 writes them: ``{"__float__": "Infinity"}``."""
    if isinstance(value, list):
        return [_with_floats(one) for one in value]
    if not isinstance(value, dict):
        return value
    tagged = value.get(_FLOAT) if len(value) == 1 else None
    if tagged in ("Infinity", "-Infinity", "NaN"):
        return float(tagged)
    return {name: _with_floats(one) for name, one in value.items()}


def read_text(path: Path) -> str:
    """The text of a file of a checkpoint. Raises ModelFileError."""
    try:
        data = read_input(path, _MOST_JSON)
        note_read(path, 0, len(data))
        return data.decode("utf-8-sig")
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ModelFileError(f"{path}: {error.strerror}; download the file again") from None
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}; download the file") from None
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: is not valid UTF-8 at byte {error.start}; download the file again") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelFileError."""
    text = read_text(path)
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: no JSON ({error}); download the file again") from None
    if not isinstance(value, dict):
        found = "null" if value is None else shown(value)
        raise ModelFileError(f"{path}: is {found}, expected a JSON object; download the file again")
    return value
