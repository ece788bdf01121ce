"""What a sweep is to do, as a file of TOML says it (docs/many-machines.md).

models = ["model-f16.gguf", { path = "model-q4_k_m.gguf", name = "Q4_K_M" }]
targets = ["llvm", "reference"]
[[prompts]]
texts = ["What is 2+2?", "Why is the sky blue?"]
chat = true
[[compare]]
along = "models"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprgraph.graph.arithmetics import PLAIN, parse_arithmetic
from aprgraph.graph.errors import AprgraphError, PlanError, shown
from aprgraph.graph.metadata import parse_overrides
from aprgraph.graph.near_names import did_you_mean_one_of, did_you_mean_path
from aprgraph.graph.sources.path_kind import TAKEN, kind_of_path
from aprgraph.runtime.remote.address import parse_remote
from aprgraph.sweep.cells import Recording

#: The versions of this program are an axis too: each cell beside the same one of the version before.
VERSIONS = "versions"
#: What cells can be compared along.
AXES = ("models", "targets", "arithmetics", "overrides", VERSIONS)
#: A larger file is no matrix.
_MOST_BYTES = 4 << 20
_SIZES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kMGT]?)B?", re.ASCII)
#: How a prompt may be given, one of them.
_PROMPT_FORMS = ("text", "texts", "lines", "file", "tokens", "tokens_file")
_TARGET = re.compile(r"llvm|reference|cuda(:\d{1,6})?|rpc:\S+", re.ASCII)


@dataclass(frozen=True)
class PromptOf:
    """A prompt: a ``text``, which goes through the chat template if ``chat``, or ``tokens``. ``name`` is what pages call it."""

    name: str
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    chat: bool = False
    system: str | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A model's file and what pages call it."""

    path: Path
    name: str
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A set of overrides (KEY=TYPE:VALUE) and what pages call it."""

    name: str
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compare:
    """Cells that differ along an axis alone are compared with the one that has the value ``with_``, the first where it is None."""

    along: str
    with_: str | None = None


@dataclass(frozen=True)
class Matrix:
    """What a file says, with its own place and that of the store."""

    path: Path
    store: Path
    recording: Recording
    models: tuple[ModelEntry, ...]
    targets: tuple[str, ...]
    arithmetics: tuple[str, ...]
    overrides: tuple[Variant, ...]
    prompts: tuple[PromptOf, ...]
    compare: tuple[Compare, ...]
    cpu: str | None = None
    upload: int = 0


def read_matrix(path: Path) -> Matrix:
    """The matrix of a file. Raises PlanError that names the key and its place, and AprgraphError for files that cannot be read."""
    toml = _toml()
    try:
        if path.stat().st_size > _MOST_BYTES:
            if (kind := kind_of_path(path)) is not None and kind.name in TAKEN:
                raise PlanError(f"{path}: not a matrix but {kind.what}; ", kind.advice)
            raise PlanError(
                f"{path}: {path.stat().st_size:,} bytes, more than a matrix has; expected a file such as docs/many-machines.md shows"
            )
        document = toml.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        kind = kind_of_path(path)
        if kind is not None and path.is_dir():
            raise PlanError(f"{path}: not a matrix but {kind.what}; ", kind.advice) from None
        why = f"{error.strerror}{did_you_mean_path(path)}"
        raise PlanError(f"{path}: cannot be read ({why}); expected a matrix, such as docs/many-machines.md shows") from None
    except (toml.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        kind = kind_of_path(path)
        if kind is not None and kind.name in TAKEN:
            raise PlanError(f"{path}: not a matrix but {kind.what}; ", kind.advice) from None
        raise PlanError(f"{path}: no TOML ({shown(str(error))}); correct the file") from None
    return _Reader(path).matrix(document)


def _toml() -> Any:
    try:
        import tomllib  # noqa: PLC0415
    except ModuleNotFoundError:  # Python 3.10
        import tomli  # noqa: PLC0415

        return tomli
    return tomllib


class _Reader:
    """Reads the tables, and says where what it cannot read stands."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def matrix(self, document: Mapping[str, Any]) -> Matrix:
        known = (*_OPTIONS, "store", "cpu", "upload", "models", "targets", "arithmetics", "overrides", "prompts", "compare")
        self._check_keys("", document, known)
        store = self._text("", document, "store", f"{self._path.stem}-store")
        models = tuple(self._model(where, entry) for where, entry in self._entries(document, "models"))
        targets = tuple(self._target(where, one) for where, one in self._entries(document, "targets", ["llvm"]))
        arithmetics = tuple(self._arithmetic(where, one) for where, one in self._entries(document, "arithmetics", [PLAIN]))
        overrides = tuple(
            self._variant(where, one) for where, one in self._entries(document, "overrides", [{"name": "as the file has it"}])
        )
        prompts = [prompt for where, entry in self._entries(document, "prompts") for prompt in self._prompts(where, entry)]
        self._check_distinct("models", [model.name for model in models])
        self._check_distinct("targets", targets)
        self._check_distinct("arithmetics", arithmetics)
        self._check_distinct("overrides", [variant.name for variant in overrides])
        self._check_distinct("prompts", [prompt.name for prompt in prompts])
        values = {
            "models": [model.name for model in models],
            "targets": list(targets),
            "arithmetics": list(arithmetics),
            "overrides": [variant.name for variant in overrides],
        }
        compare = tuple(self._compare(where, one, values) for where, one in self._entries(document, "compare", []))
        return Matrix(
            path=self._path,
            store=self._path.parent / store,
            recording=self._recording(document),
            models=models,
            targets=targets,
            arithmetics=arithmetics,
            overrides=overrides,
            prompts=tuple(prompts),
            compare=compare,
            cpu=self._text("", document, "cpu", None),
            upload=self._size("", document, "upload", 0),
        )

    def _recording(self, document: Mapping[str, Any]) -> Recording:
        usual = Recording()
        chunk = document.get("prefill_chunk")
        return Recording(
            taps=self._text("", document, "taps", usual.taps),
            layers=self._text("", document, "layers", usual.layers),
            steps=self._text("", document, "steps", usual.steps),
            positions=self._text("", document, "positions", usual.positions),
            max_tokens=self._number("", document, "max_tokens", usual.max_tokens),
            prefill_chunk=None if chunk is None else self._number("", document, "prefill_chunk", 0),
            audit=self._flag("", document, "audit", usual.audit),
            keep=self._texts(document, "keep", '["lm_head", "attn_*"]'),
            room=self._size("", document, "room", usual.room),
        )

    def _model(self, where: str, entry: Any) -> ModelEntry:
        table = {"path": entry} if isinstance(entry, str) else entry
        self._require_table(where, table, "the path of a model, or a table with path")
        self._check_keys(where, table, ("path", "name", "ignore"))
        path = self._path.parent / self._required(where, table, "path")
        if not path.exists():
            raise self._error(f"{where}.path" if table is entry else where, table["path"], f"a model; {path} is not there")
        ignore = table.get("ignore", [])
        if not isinstance(ignore, list) or not all(isinstance(one, str) for one in ignore):
            raise self._error(f"{where}.ignore", ignore, "a list of regular expressions")
        return ModelEntry(path, self._text(where, table, "name", path.stem), tuple(ignore))

    def _target(self, where: str, entry: Any) -> str:
        if not isinstance(entry, str) or _TARGET.fullmatch(entry) is None:
            raise self._error(where, entry, "llvm, reference, cuda, cuda:N or rpc:HOST:PORT", ("llvm", "reference", "cuda"))
        if entry.startswith("rpc:"):
            self._within(where, lambda: parse_remote(entry.removeprefix("rpc:")))
        return entry

    def _arithmetic(self, where: str, entry: Any) -> str:
        if not isinstance(entry, str):
            raise self._error(where, entry, "the name of an arithmetic, such as plain or ggml-avx2")
        return str(self._within(where, lambda: parse_arithmetic(entry).text))

    def _variant(self, where: str, entry: Any) -> Variant:
        self._require_table(where, entry, "a table with name and set")
        self._check_keys(where, entry, ("name", "set"))
        items = entry.get("set", [])
        if not isinstance(items, list) or not all(isinstance(one, str) for one in items):
            raise self._error(f"{where}.set", items, 'a list such as ["llama.rope.freq_base=float:10000"]')
        self._within(f"{where}.set", lambda: parse_overrides(items))
        return Variant(self._text(where, entry, "name", ", ".join(items) or "as the file has it"), tuple(items))

    def _prompts(self, where: str, entry: Any) -> list[PromptOf]:
        """The prompts of one entry, of which it has one or, of several texts or lines, more."""
        table = {"text": entry} if isinstance(entry, str) else entry
        self._require_table(where, table, f"a text, or a table with {', '.join(_PROMPT_FORMS[:-1])} or {_PROMPT_FORMS[-1]}")
        self._check_keys(where, table, (*_PROMPT_FORMS, "name", "chat", "system"))
        given = [form for form in _PROMPT_FORMS if form in table]
        if len(given) != 1:
            raise PlanError(f"{self._path}: {where} has {' and '.join(given) or 'no prompt'}; expected one of {', '.join(_PROMPT_FORMS)}")
        form = given[0]
        chat, system = self._flag(where, table, "chat", False), self._text(where, table, "system", None)
        if (chat and form.startswith("tokens")) or (system is not None and not chat):
            raise PlanError(
                f"{self._path}: {where} has {'chat' if chat else 'system'}, which goes with {'a text' if chat else 'chat = true'}"
            )
        number = re.sub(r"\D", "", where)
        name = self._text(where, table, "name", f"prompt {number}")
        if form.startswith("tokens"):
            return [PromptOf(name, tokens=self._prompt_tokens(where, table, form))]
        texts = self._prompt_texts(where, table, form)
        names = [name] if len(texts) == 1 else [f"{name}.{index}" for index in range(len(texts))]
        return [PromptOf(one, text, chat=chat, system=system) for one, text in zip(names, texts, strict=True)]

    def _prompt_tokens(self, where: str, table: Mapping[str, Any], form: str) -> tuple[int, ...]:
        from aprgraph.runtime.tokens import read_tokens_file  # noqa: PLC0415

        if form == "tokens_file":
            path = self._path.parent / self._required(where, table, form)
            return tuple(self._within(f"{where}.{form}", lambda: read_tokens_file(path)))
        ids = table[form]
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise self._error(f"{where}.tokens", ids, "a list of token ids")
        return tuple(ids)

    def _prompt_texts(self, where: str, table: Mapping[str, Any], form: str) -> Sequence[str]:
        from aprgraph.runtime.tokens import read_prompt_file  # noqa: PLC0415

        if form == "text":
            return [self._required(where, table, form)]
        if form == "texts":
            texts = table[form]
            if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
                raise self._error(f"{where}.texts", texts, "a list of texts")
            return texts
        path = self._path.parent / self._required(where, table, form)
        whole: str = self._within(f"{where}.{form}", lambda: read_prompt_file(path))
        return [whole] if form == "file" else [line for line in whole.splitlines() if line.strip()]

    def _compare(self, where: str, entry: Any, values: Mapping[str, Sequence[str]]) -> Compare:
        self._require_table(where, entry, "a table with along, and perhaps with")
        self._check_keys(where, entry, ("along", "with"))
        along = self._required(where, entry, "along")
        if along not in AXES:
            raise self._error(f"{where}.along", along, f"one of {', '.join(AXES)}", AXES)
        chosen = self._text(where, entry, "with", None)
        if along == VERSIONS:
            if chosen not in (None, "last"):
                raise self._error(f"{where}.with", chosen, "last, since of other versions the store may have none")
            return Compare(along)
        if chosen in (None, "first"):
            return Compare(along)
        if chosen not in values[along]:
            raise self._error(f"{where}.with", chosen, f"first, or one of {', '.join(values[along])}", values[along])
        return Compare(along, chosen)

    def _entries(self, document: Mapping[str, Any], key: str, usual: list[Any] | None = None) -> list[tuple[str, Any]]:
        """(place, entry) of a list."""
        found = document.get(key, usual)
        if found is None:
            raise PlanError(f"{self._path}: there is no {key}; expected a list of them, such as docs/many-machines.md shows")
        if not isinstance(found, list) or (not found and key != "compare"):
            raise self._error(key, found, f"a list of {key}, not empty")
        return [(f"{key}[{index}]", entry) for index, entry in enumerate(found)]

    def _check_keys(self, where: str, table: Mapping[str, Any], known: Collection[str]) -> None:
        for key in table:
            if key not in known:
                place = f"{where}." if where else ""
                raise PlanError(f"{self._path}: there is no key {place}{key}{did_you_mean_one_of(key, known)}; expected {', '.join(known)}")

    def _check_distinct(self, key: str, names: Sequence[str]) -> None:
        for index, name in enumerate(names):
            if name in names[:index]:
                raise PlanError(f"{self._path}: {key} has {shown(name)} twice; give one of them another name, or leave it out")

    def _require_table(self, where: str, value: Any, expected: str) -> None:
        if not isinstance(value, dict):
            raise self._error(where, value, expected)

    def _required(self, where: str, table: Mapping[str, Any], key: str) -> str:
        if key not in table:
            raise PlanError(f"{self._path}: {where} has no {key}")
        text: Any = table[key]
        if not isinstance(text, str) or not text:
            raise self._error(f"{where}.{key}" if where else key, text, "a text")
        return str(text)

    def _text(self, where: str, table: Mapping[str, Any], key: str, usual: Any) -> Any:
        return usual if key not in table else self._required(where, table, key)

    def _texts(self, document: Mapping[str, Any], key: str, such_as: str) -> tuple[str, ...]:
        found = document.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
            raise self._error(key, found, f"a list of texts, such as {such_as}")
        return tuple(found)

    def _flag(self, where: str, table: Mapping[str, Any], key: str, usual: bool) -> bool:
        value = table.get(key, usual)
        if not isinstance(value, bool):
            raise self._error(f"{where}.{key}" if where else key, value, "true or false")
        return value

    def _number(self, where: str, table: Mapping[str, Any], key: str, usual: int) -> int:
        value = table.get(key, usual)
        if type(value) is not int or value < 0:
            raise self._error(f"{where}.{key}" if where else key, value, "a whole number from 0 on")
        return value

    def _size(self, where: str, table: Mapping[str, Any], key: str, usual: int) -> int:
        value = table.get(key, usual)
        if type(value) is int and value >= 0:
            return value
        found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise self._error(f"{where}.{key}" if where else key, value, 'a number of bytes, or a text such as "64 MB"')
        return int(float(found[1]) * _SIZES[found[2]])

    def _within(self, where: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except AprgraphError as error:
            raise PlanError(f"{self._path}: {where}: ", error.message) from None

    def _error(self, where: str, value: Any, expected: str, known: Collection[str] = ()) -> PlanError:
        meant = did_you_mean_one_of(value, known) if isinstance(value, str) else ""
        return PlanError(f"{self._path}: {where} is {shown(value)}{meant}; expected {expected}")


_OPTIONS = ("taps", "layers", "steps", "positions", "max_tokens", "prefill_chunk", "audit", "keep", "room")
