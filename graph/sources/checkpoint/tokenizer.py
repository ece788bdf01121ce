"""The tokenizer of a checkpoint in GGUF's keys: tokenizer.json, its vocabulary, special tokens, the chat template.

The text of tokenizer.json stands under `tokenizer.huggingface.json`, which is GGUF's own key for it. What uses it is
runtime/tokenizer/hugging_face.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.metadata import ListValue
from aprgraph.graph.sources.checkpoint.places import read_json, read_text

FILE = "tokenizer.json"
_CONFIG, _TEMPLATE, _GENERATION = "tokenizer_config.json", "chat_template.jinja", "generation_config.json"
_GGML = "tokenizer.ggml."
#: GGUF's numbers of kinds (docs/gguf.md): normal, control, user-defined, unused, byte.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
#: Ids may leave holes, but not more than this beside the tokens.
_MOST_HOLES = 1 << 16


def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, object], list[str]]:
    """The keys of the tokenizer, and notices: of a file that makes no sense, since token ids can be run without it."""
    values: dict[str, object] = {}
    try:
        settings = _read_if_there(folder / _CONFIG)
        values |= _read_template(folder, settings)
        ends = {**config, **_read_if_there(folder / _GENERATION)}
        if (folder / FILE).is_file():
            values |= _read_vocabulary(folder, settings, ends)
    except ModelFileError as error:
        return values, [f"{error}; the tokenizer is left out: give prompts as token ids"]
    return values, []


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _read_template(folder: Path, settings: Mapping[str, Any]) -> dict[str, object]:
    """The chat template: of a file of its own, or in the settings, alone or as the one called default."""
    key = "tokenizer.chat_template"
    if (folder / _TEMPLATE).is_file():
        return {key: read_text(folder / _TEMPLATE)}
    given = settings.get("chat_template")
    if isinstance(given, str):
        return {key: given}
    named = [(one.get("name"), one.get("template")) for one in map(_object, _list(given))]
    texts = {name: text for name, text in named if isinstance(name, str) and isinstance(text, str)}
    return {key if name == "default" else f"{key}.{name}": text for name, text in texts.items()}


def _read_vocabulary(folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, object]:
    where = folder / FILE
    document = read_json(where)
    model = document.get("model")
    if not isinstance(model, dict):
        raise ModelFileError(f"{where}: model is {shown(model)}, expected an object; download the file again")
    tokens = dict(_tokens(model, where))
    kinds = dict.fromkeys(tokens, _NORMAL)
    if model.get("byte_fallback"):
        kinds |= {token: _BYTE for token, text in tokens.items() if len(text) == 6 and text.startswith("<0x") and text.endswith(">")}
    for added in map(_object, _list(document.get("added_tokens"))):
        token, text = _entry(added.get("id"), added.get("content"), where)
        tokens[token], kinds[token] = text, _CONTROL if added.get("special") else _USER_DEFINED
    count = max(tokens, default=-1) + 1
    if not tokens or count > len(tokens) + _MOST_HOLES:
        raise ModelFileError(
            f"{where}: {len(tokens)} tokens with ids up to {count - 1}, expected ids without large holes; download it again"
        )
    texts = [tokens.get(token, f"[PAD{token}]") for token in range(count)]
    kind_numbers: list[int | float | bool] = [kinds.get(token, _UNUSED) for token in range(count)]
    values: dict[str, object] = {
        f"{_GGML}model": "huggingface",
        "tokenizer.huggingface.json": read_text(where),
        f"{_GGML}tokens": ListValue([text.encode("utf-8", errors="surrogatepass") for text in texts]),
        f"{_GGML}token_type": ListValue(kind_numbers),
    }
    return values | _special_tokens(settings, config, texts) | _affixes(document, count, where)


def _tokens(model: Mapping[str, Any], where: Path) -> Iterator[tuple[int, str]]:
    """Ids and texts, of a dict from text to id, or of a list of text and score."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        for text, token in vocabulary.items():
            yield _entry(token, text, where)
    elif isinstance(vocabulary, list):
        for token, entry in enumerate(vocabulary):
            yield _entry(token, entry[0] if isinstance(entry, list) and entry else entry, where)
    else:
        raise ModelFileError(f"{where}: model.vocab is {shown(vocabulary)}, expected tokens with their ids; download the file again")


def _entry(token: Any, text: Any, where: Path) -> tuple[int, str]:
    if type(token) is not int or token < 0 or not isinstance(text, str):
        raise ModelFileError(
            f"{where}: the token {shown(text)} has the id {shown(token)}, expected a text and a number; download the file again"
        )
    return token, text


def _special_tokens(settings: Mapping[str, Any], config: Mapping[str, Any], texts: list[str]) -> dict[str, object]:
    """Ids of special tokens: by their texts in the settings, and of those that end a text also by config.json."""
    ids = {text: token for token, text in enumerate(texts)}
    values: dict[str, object] = {}
    for name, key in _SPECIAL.items():
        given = settings.get(name)
        text = given.get("content") if isinstance(given, dict) else given
        if isinstance(text, str) and text in ids:
            values[f"{_GGML}{key}_token_id"] = ids[text]
    given = config.get("eos_token_id")
    ends = [one for one in (given if isinstance(given, list) else [given]) if type(one) is int and 0 <= one < len(texts)]
    eos = values.setdefault(f"{_GGML}eos_token_id", ends[0]) if ends else values.get(f"{_GGML}eos_token_id")
    for key, token in zip(("eot", "eom"), (one for one in ends if one != eos), strict=False):
        values[f"{_GGML}{key}_token_id"] = token
    return values


def _affixes(document: Mapping[str, Any], count: int, where: Path) -> dict[str, object]:
    """Whether texts get a BOS and an EOS, and which: by the template of the post-processor."""
    processor = _object(document.get("post_processor"))
    inner = _list(processor.get("processors")) if processor.get("type") == "Sequence" else [processor]
    template = next((one for one in map(_object, inner) if one.get("type") == "TemplateProcessing"), {})
    names = [_object(_object(part).get("SpecialToken")).get("id") for part in _list(template.get("single"))]
    special = _object(template.get("special_tokens"))
    missing = next((name for name in names if name is not None and (not isinstance(name, str) or name not in special)), None)
    if missing is not None:
        raise ModelFileError(f"{where}: post_processor adds {shown(missing)}, which its special_tokens do not have; download it again")
    values: dict[str, object] = {f"{_GGML}add_bos_token": False, f"{_GGML}add_eos_token": False}
    for key, name in (("bos", names[0] if names else None), ("eos", names[-1] if names else None)):
        ids = _list(_object(special.get(name) if isinstance(name, str) else None).get("ids"))
        if ids and type(ids[0]) is int and 0 <= ids[0] < count:
            values |= {f"{_GGML}add_{key}_token": True, f"{_GGML}{key}_token_id": ids[0]}
    return values


def _object(value: Any) -> Mapping[str, Any]:
    """An object of JSON; an empty one for what is none."""
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
