"""What lies in a trace directory and is not read: what it looks like, and where it would be read."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aprgraph.graph.arguments import REPRO, RUN
from aprgraph.graph.errors import TraceError
from aprgraph.graph.message import Message
from aprgraph.graph.sources.adapter import CONFIG as ADAPTER_CONFIG
from aprgraph.graph.sources.adapter import adapter_in
from aprgraph.graph.sources.file_kind import what_is_in
from aprgraph.graph.stage_suggestions import is_known_elsewhere, nearest_part, nearest_stage, remark_on
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import and_more, listed
from aprgraph.runtime.trace.aprt import HEADER, MAGIC, WHOLE_MODEL, relative_path
from aprgraph.runtime.trace.onnx_names import module_of

SUFFIX = ".bin"
#: Files that hold numbers, in forms that are not read here.
_ARRAYS = (
    ".npy",
    ".npz",
    ".pt",
    ".pth",
    ".safetensors",
    ".pb",
    ".tensorproto",
    ".f32",
    ".f16",
    ".bf16",
    ".fp32",
    ".fp16",
    ".raw",
    ".dat",
    ".tensor",
    ".aprt",
)
#: Files that hold none, whatever their name.
_OTHERS = (".json", ".txt", ".md", ".log", ".csv", ".html", ".svg", ".png", ".dot", ".py", ".sh", ".yaml", ".yml", ".toml", ".gguf", ".tmp")
#: A tensor lies at most two folders deep; those of other programs may lie deeper (layers/0/mlp/down_proj.npy).
_DEPTH = 6
#: What says that a folder is something of its own.
_OWN = {"trace.json": "a trace", "trace.incomplete": "what an interrupted run left", "artifact.json": "an artifact"}
_SHOWN = 4

_STEP = re.compile(r"(?:^|(?<=[/._-]))steps?[-_. /]?(\d{1,9})(?=$|[/._-])[/._-]?", re.IGNORECASE | re.ASCII)
_LAYER = re.compile(
    r"(?:^|(?<=[/._-]))(?:(?:model[./_])?layers?|blk|blocks?|(?:transformer[./_])?h|l)[-_. /]?(\d{1,9})(?=$|[/._-])[/._-]?",
    re.IGNORECASE | re.ASCII,
)
#: A layer's number elsewhere: llama.cpp's ``ffn_out-3``, and ``3.ffn_out``.
_NUMBER = re.compile(r"^(?P<first>\d{1,9})[/._-](?=\D)|(?P<sign>[-_.])(?P<last>\d{1,9})$", re.ASCII)
#: What says that it is what a module is given.
_GIVEN = re.compile(r"[._/-](?:inputs|input(?=$|[._/-]\d))(?=$|[._/-])", re.IGNORECASE | re.ASCII)
#: What says only that it is a module's result.
_RESULT = re.compile(r"(?:[._/-](?:outputs?|out|result|activations?|act|tensor|data|0)){1,2}$", re.IGNORECASE)


@dataclass(frozen=True)
class Unread:
    """A file that was not read, or an array of one. ``file``, and ``suggestion``, where it would have been read, are relative to the
    directory, or names of arrays; ``kind`` is the noun for it. ``damaged``: it lies where a tensor does, and its header cannot be read.
    """

    file: str
    why: str
    suggestion: str | None = None
    kind: str = "file"
    damaged: bool = False

    @property
    def sentence(self) -> str:
        """``layer_0/ffn_swiglu.bin: no place of a stage; did you mean layer-0/ffn_swigl.bin?``"""
        return f"{self.file}: {self.why}" + (f"; did you mean {self.suggestion}?" if self.suggestion else "")


@dataclass
class Folder:
    """The ``files`` below a directory, in order and relative to it, but hidden ones; ``apart``: traces and artifacts, and what each is."""

    files: list[str] = field(default_factory=list)
    apart: dict[str, str] = field(default_factory=dict)


def list_folder(directory: Path) -> Folder:
    """What lies below ``directory``. Links to folders are followed, each folder once. Raises TraceError for what cannot be read."""
    found, seen, top = Folder(), set(), os.fspath(directory)

    def fail(error: OSError) -> None:
        raise TraceError(f"{error.filename}: cannot be read: {error.strerror}") from None

    for place, folders, files in os.walk(top, onerror=fail, followlinks=True):
        state, inside = Path(place).stat(), place[len(top) :].lstrip("/") or os.curdir
        own = next((what for name, what in _OWN.items() if name in files), None)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        if own is not None and inside != os.curdir:
            found.apart[inside] = own
            folders.clear()
            continue
        depth = 0 if inside == os.curdir else inside.count(os.sep) + 1
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEPTH else []
        prefix = "" if inside == os.curdir else f"{inside}/"
        found.files += [prefix + name for name in sorted(files) if not name.startswith(".")]
    return found


def beside_manifest(directory: Path, listed: Collection[str | None]) -> tuple[Unread, ...]:
    """The files of a directory with a manifest that hold tensors, or look as if they did, and that the manifest does not list."""
    reason = "the manifest does not list it; it is of another run or program"
    found = []
    for file in list_folder(directory).files:
        one = None if file in listed else explain(directory, file)
        if one is not None:
            found.append(Unread(file, reason, one.suggestion))
    return tuple(found)


def explain(directory: Path, file: str, reason: str | None = None) -> Unread | None:
    """Why ``file`` is not read (``reason``, if that is known), and where it would be; None for what seems to hold no tensor."""
    name, suffix = _split(file)
    place, word = suggest_place(name)
    head = _head(directory / file)
    is_aprt = head[: len(MAGIC)] == MAGIC
    if suffix in _OTHERS or not (is_aprt or suffix in (SUFFIX, *_ARRAYS) or (word is not None and is_known_elsewhere(word))):
        return None
    if reason is None and suffix in _ARRAYS:
        reason = f"a {suffix} file, and only APRT files ({SUFFIX}) are read here; aprgraph.Trace.write makes them of arrays"
    if reason is None:
        reason = "no place of a stage" if is_aprt else "no APRT file, and no place of a stage"
    if place is not None and is_aprt and len(head) == HEADER.size:
        place = place.replace("<N>", _layer_named(head))
    remark = None if word is None else remark_on(word)
    return Unread(file, reason + (f" ({remark})" if remark else ""), None if place == file else place)


def _split(file: str) -> tuple[str, str]:
    """The name without its ending, and the ending in small letters; an ending that is not known is a part of the name (``blk.0.mlp``)."""
    suffix = Path(file).suffix
    return (file.removesuffix(suffix), suffix.lower()) if suffix.lower() in (SUFFIX, *_ARRAYS, *_OTHERS) else (file, "")


def _head(path: Path) -> bytes:
    """The first bytes of a file; none of what is no file, or cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(HEADER.size)
    except OSError:
        return b""


def _layer_named(head: bytes) -> str:
    """The layer that an APRT header names; ``<N>`` where it names none."""
    layer = HEADER.unpack(head)[1]
    return "<N>" if layer == WHOLE_MODEL else str(layer)


def suggest_place(name: str) -> tuple[str | None, str | None]:
    """Where in a trace a tensor belongs that another program calls ``name``, a path without its ending; and the word that told.

    ``layer-<N>`` stands where the name tells no layer. (None, None) for names that are like none that is known.
    """
    module = module_of(name)
    if module is None or _GIVEN.search(module) is not None:  # the result of what comes before, whatever that is
        return None, None
    name = module
    name, step = _take(_STEP, name)
    name, layer = _take(_LAYER, name)
    readings = [(name, layer)]
    if layer is None and (match := _NUMBER.search(name)) is not None:
        numbered = (name[: match.start()] + name[match.end() :], int(match["first"] or match["last"]))
        readings.insert(0 if match["first"] or match["sign"] == "-" else 1, numbered)
    for must_be_known in (True, False):
        for rest, number in readings:
            for word in _words(rest):
                stage = nearest_stage(word, of_layer=number is not None)
                if stage is not None and (is_known_elsewhere(word) or not must_be_known):
                    return _place(stage, number, step or 0), word
    return None, None


def name_of_place(place: str, word: str) -> str:
    """What an array is called that belongs to ``place``, which ``word`` told, as ``suggest_place`` has both: ``layer0.qkv_matmul[q]``."""
    part = nearest_part(word)
    return place.removesuffix(SUFFIX).replace("-", "").replace("/", ".") + (f"[{part}]" if part else "")


def _take(pattern: re.Pattern[str], name: str) -> tuple[str, int | None]:
    """``name`` without what ``pattern`` finds, and the number in that."""
    match = pattern.search(name)
    return (name, None) if match is None else (name[: match.start()] + name[match.end() :], int(match[1]))


def _words(name: str) -> Iterator[str]:
    """The parts of a name that may name a stage, the likeliest first."""
    last = re.split(r"[/.]", name)[-1]
    yield from (name, _RESULT.sub("", name))
    if not _RESULT.fullmatch(f".{last}"):
        yield last
    yield re.split(r"[/.]", _RESULT.sub("", name))[-1]


def _place(stage: str, layer: int | None, step: int) -> str:
    if not STAGE_BY_NAME[stage].per_layer:
        return relative_path(stage, None, step)
    if STAGE_BY_NAME[stage].first_layer_only:
        return relative_path(stage, 0, step)
    if layer is not None:
        return relative_path(stage, layer, step)
    return relative_path(stage, 0, step).replace("layer-0", "layer-<N>")


def describe_strangers(directory: Path, unread: Collection[Unread], apart: dict[str, str]) -> str:
    """What a directory holds of which nothing could be read, in words for an error."""
    names = {path.name for path in directory.iterdir()}
    if "artifact.json" in names:
        return Message("it is an artifact; give the directory of a trace, which `", RUN, "` writes")
    if "repro.py" in names:
        return Message("it is the guilty stage that ", REPRO, " wrote; give the directory of a trace")
    if ADAPTER_CONFIG in names:
        return f"it is {adapter_in(directory).what}; record a run of the model that it was merged into"
    if apart:
        return f"it holds {listed((f'{directory / name} ({what})' for name, what in apart.items()), _SHOWN)}; give one of them"
    if unread:
        return f"found {'; '.join(one.sentence for one in list(unread)[:_SHOWN])}{and_more(list(unread)[_SHOWN:])}"
    if names & {"config.json", "tokenizer.json"} or any(name.endswith(".gguf") for name in names):
        return Message("it holds a model; run it first, with `", RUN, "` or in your own engine")
    return f"it is {what_is_in(directory)}"
