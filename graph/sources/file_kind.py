"""What a file is that is no whole model: each kind declared once, with how it is known and what its owner should do.

Every command that opens a model says it in these words, as `aprgraph check` and `inspect` do. A GGUF file that is not in the tables
is taken for a model.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

from aprgraph.graph.arguments import AUDIT, DIFF, INSPECT, MODELS, RUN, Command
from aprgraph.graph.errors import shown
from aprgraph.graph.message import Message
from aprgraph.graph.sources.adapter import CONFIG as ADAPTER_CONFIG
from aprgraph.graph.sources.adapter import adapter_in, begins_an_adapter
from aprgraph.graph.sources.kind import FileKind
from aprgraph.graph.words import listed

#: Bytes of a file's beginning that suffice to know it.
HEAD_BYTES = 1024

#: The names of kinds that hold a model's weights.
KINDS_WITH_WEIGHTS = frozenset((
    "safetensors", "pytorch", "pickle", "onnx", "hdf5", "tflite", "ggml", "ggjt", "ggla", "apr-1", "aprn", "llamafile",
    "big-endian", "gguf-1",
))  # fmt: skip

#: What a text of ASCII holds, and how long one is at least.
_TEXT = frozenset(b"\t\n\r" + bytes(range(32, 127)))
_LEAST_TEXT = 8
#: The name of the kind of a GGUF file that a run left, and what the names of weights end with, of which it has none.
ARRAYS_IN_GGUF = "gguf-arrays"
_WEIGHTS = (".weight", ".bias")
#: So many files of a folder are named.
_NAMED = 3

_CONVERT = "convert the model with llama.cpp's convert_hf_to_gguf.py"
_OLD_GGML = "llama.cpp's format before GGUF (August 2023), which nothing reads any more; download or convert the model as GGUF"
_AGAIN = "download the file again"
_TEXT_ONLY = "aprgraph traces text models: give the file of one"
_OTHER = "aprgraph reads GGUF: convert the model that it was made from"


def taken_by(*commands: Command, what: str = "it") -> Message:
    """``it is for `aprgraph diff` and `aprgraph inspect```."""
    parts: list[str | Command] = [f"{what} is for `", commands[0]]
    for index, command in enumerate(commands[1:], 2):
        parts += ["` and `" if index == len(commands) else "`, `", command]
    return Message(*parts, "`")


#: What to do with what is no model, where a model belongs.
_GIVE = "give the model's .gguf file; "
OF_TRACES, OF_TENSORS, OF_ARTIFACTS = (DIFF, AUDIT, INSPECT), (INSPECT, DIFF, AUDIT), (RUN, INSPECT)


#: It comes in two forms: GGUF, and a format of its own before that.
_IMATRIX = FileKind(
    "imatrix", "an importance matrix (imatrix)", "it is what quantising was weighted by, not a model: give the model's own file"
)


# -- files that do not begin as GGUF ----------------------------------------------------------------------------------------


def _begins(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def is_safetensors(head: bytes) -> bool:
    """Eight bytes of length, then a JSON object."""
    return len(head) > 9 and 2 <= int.from_bytes(head[:8], "little") < 1 << 32 and head[8:9] == b"{"


def _is_npz(head: bytes) -> bool:
    """A ZIP archive whose first member is a .npy file (the length of its name is at byte 26, and the name at 30)."""
    length = int.from_bytes(head[26:28], "little")
    return head.startswith(b"PK\x03\x04") and head[30 : 30 + length].endswith(b".npy")


def _is_torch_zip(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04") and b"data.pkl" in head[:256]


def _is_pickle(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _is_onnx(head: bytes) -> bool:
    """A protobuf whose field 1 is a small version and whose field 2 is the name of the producer (onnx.proto, ModelProto)."""
    return len(head) > 4 and head[0] == 8 and 0 < head[1] < 32 and head[2] == 0x12 and head[4 : 4 + min(head[3], 8)].isalnum()


def _is_old_imatrix(head: bytes) -> bool:
    """A count of entries, and the length and the name of the first one: a tensor."""
    if len(head) < 16:
        return False
    entries, length = struct.unpack_from("<ii", head)
    return 0 < entries < 1 << 20 and 0 < length < 128 and head[8 : 8 + length].endswith(b".weight")


def _is_web_page(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    return text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<!--"))


def _is_json(head: bytes) -> bool:
    return re.match(rb'\s*(\{\s*("|\})|\[\s*[\{"])', head) is not None


def _is_gguf_of(version: int, order: Literal["little", "big"]) -> Callable[[bytes], bool]:
    return _begins(b"GGUF" + version.to_bytes(4, order))


def _is_eval_log(head: bytes) -> bool:
    """What llama.cpp's eval-callback prints of each tensor: its name, its type, the op, and some elements (common/debug.cpp)."""
    return re.search(rb"(ggml_debug|common_debug_cb_eval):\s+\S+ = \(\w+\)", head) is not None


_BYTES: tuple[tuple[Callable[[bytes], bool], FileKind], ...] = (
    (lambda head: not head, FileKind("empty", "an empty file", "the download or the conversion never began: get the file again")),
    (
        lambda head: len(head) >= 64 and not any(head),
        FileKind("zeros", "a file that begins with zeros", f"its room was taken and nothing written into it: {_AGAIN}"),
    ),
    (
        _begins(b"version https://git-lfs.github.com/"),
        FileKind("git-lfs", "a Git LFS pointer that stands for a file", "fetch the file itself with `git lfs pull`, or download it"),
    ),
    (_is_web_page, FileKind("web-page", "a web page that was saved in place of a file", f"{_AGAIN}, from the address of the file itself")),
    (begins_an_adapter, adapter_in(None)),
    (
        is_safetensors,
        FileKind(
            "safetensors",
            "a safetensors file",
            f"it says nothing of the model: put the config.json of its checkpoint beside it, or {_CONVERT} from the folder that it was in",
        ),
    ),
    (
        _is_torch_zip,
        FileKind("pytorch", "a PyTorch checkpoint", f"aprgraph does not read checkpoints: {_CONVERT} from the folder that it lies in"),
    ),
    (
        _is_npz,
        FileKind("npz", "an archive of NumPy arrays (.npz)", Message(_GIVE, taken_by(*OF_TRACES, what="what another program recorded"))),
    ),
    (_begins(b"PK\x03\x04", b"PK\x05\x06"), FileKind("zip", "a ZIP archive", "unpack it first")),
    (
        lambda head: _is_gguf_of(2, "big")(head) or _is_gguf_of(3, "big")(head),
        FileKind("big-endian", "a big-endian GGUF file", "aprgraph reads little-endian ones: convert it with gguf_convert_endian.py"),
    ),
    (
        _is_gguf_of(1, "little"),
        FileKind("gguf-1", "a GGUF file of version 1 (August 2023)", "nothing reads these any more: convert the model again"),
    ),
    (_begins(b"\x1f\x8b"), FileKind("gzip", "a file compressed by gzip", "unpack it with `gunzip` first")),
    (_begins(b"\xfd7zXZ\0"), FileKind("xz", "a file compressed by xz", "unpack it with `unxz` first")),
    (_begins(b"\x28\xb5\x2f\xfd"), FileKind("zstd", "a file compressed by zstd", "unpack it with `unzstd` first")),
    (_begins(b"BZh"), FileKind("bzip2", "a file compressed by bzip2", "unpack it with `bunzip2` first")),
    (_begins(b"7z\xbc\xaf\x27\x1c"), FileKind("7z", "a 7-Zip archive", "unpack it first")),
    (lambda head: head[257:262] == b"ustar", FileKind("tar", "a tar archive", "unpack it with `tar -xf` first")),
    (
        _begins(b"lmgg"),
        FileKind("ggml", "a file of the old ggml format", f"it is that of whisper.cpp, or {_OLD_GGML}"),
    ),
    (_begins(b"fmgg", b"tjgg"), FileKind("ggjt", "a file of the old ggmf or ggjt format", f"it is {_OLD_GGML}")),
    (_begins(b"algg"), FileKind("ggla", "a LoRA adapter of the old ggla format", f"it is {_OLD_GGML}")),
    (_is_old_imatrix, _IMATRIX),
    (
        _begins(b"APRT"),
        FileKind("aprt", "an APRT file, one tensor of a trace", Message(_GIVE, taken_by(*OF_TENSORS, what="a tensor"))),
    ),
    (
        _begins(b"APR1"),
        FileKind("apr-1", "a Whisper model of `apr` (APR1)", _TEXT_ONLY),
    ),
    (
        _begins(b"APRN"),
        FileKind(
            "aprn", "a model of aprender's own kinds (APRN), such as a regression", "aprgraph traces text models: give the file of one"
        ),
    ),
    (_begins(b"MZqFpD"), FileKind("llamafile", "a llamafile, a program with a model in it", "unpack the .gguf from it with `unzip`")),
    (_begins(b"\x93NUMPY"), FileKind("npy", "a NumPy array", Message(_GIVE, taken_by(*OF_TENSORS, what="a tensor")))),
    (_begins(b"\x89HDF\r\n"), FileKind("hdf5", "an HDF5 file", _OTHER)),
    (lambda head: head[4:8] == b"TFL3", FileKind("tflite", "a TensorFlow Lite model", _OTHER)),
    (_is_pickle, FileKind("pickle", "a Python pickle, as older PyTorch checkpoints are", f"aprgraph reads GGUF: {_CONVERT}")),
    (_is_onnx, FileKind("onnx", "an ONNX model", _OTHER)),
    (
        _is_eval_log,
        FileKind(
            "eval-callback",
            "what llama.cpp's eval-callback prints, which is a few elements of each tensor",
            "record whole tensors, as examples/llama_cpp_trace.py does through the same callback (docs/captures.md)",
        ),
    ),
    (
        _begins(b"_logits_"),
        FileKind(
            "kl-divergence",
            "what llama-perplexity keeps for its KL divergence, log probabilities rounded to 16 bits",
            "record the logits themselves, with `llama-debug --save-logits` or examples/llama_cpp_trace.py (docs/captures.md)",
        ),
    ),
    (_is_json, FileKind("json", "JSON text: a configuration, or a server's error message", f"give the model's .gguf file, or {_AGAIN}")),
)


def kind_of_bytes(head: bytes) -> FileKind | None:
    """What a file is by its first HEAD_BYTES; None for GGUF that may be read, and for what nobody knows."""
    known = next((kind for matches, kind in _BYTES if matches(head)), None)
    if known is None and len(head) >= _LEAST_TEXT and all(byte in _TEXT for byte in head):
        return FileKind(
            "text", f"text that begins with {shown(head[:40].decode())}", f"is it a server's message? look into it, and {_AGAIN}"
        )
    return known


def kind_of_file(path: Path, head: bytes) -> FileKind | None:
    """As ``kind_of_bytes``, of a file that begins with ``head``, with what the files beside it say."""
    if begins_an_adapter(head) and (path.parent / ADAPTER_CONFIG).is_file():
        return adapter_in(path.parent)
    return kind_of_bytes(head)


def kind_of_folder(folder: Path) -> FileKind | None:
    """What a folder is that is given for a model; None for one that cannot be read, or that holds nothing known."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return None
    models = [name for name in names if name.endswith(".gguf")]
    if "trace.json" in names or any(name.startswith("layer-") for name in names):
        return FileKind("trace", "a trace", Message(_GIVE, taken_by(*OF_TRACES, what="a trace")))
    if "artifact.json" in names:
        return FileKind("artifact", "an artifact, which holds no weights", Message(_GIVE, taken_by(*OF_ARTIFACTS, what="an artifact")))
    if models:
        more = " …" if len(models) > 3 else ""
        return FileKind("folder", "a folder", f"give one of its files: {', '.join(shown(name) for name in models[:3])}{more}")
    if ADAPTER_CONFIG in names and not any(name.startswith(("model", "pytorch_model")) for name in names):
        return adapter_in(folder)
    if any(name.endswith(".onnx") for name in names) and not any(name.endswith(".safetensors") for name in names):
        return FileKind("onnx", "a folder with an ONNX model", _OTHER)
    if "params.json" in names and "config.json" not in names:
        return FileKind(
            "consolidated",
            "a checkpoint with params.json, as Meta and Mistral AI write them beside those of transformers",
            f"get the config.json and model*.safetensors of the same model, or {_CONVERT}",
        )
    if "config.json" in names or any(name.endswith((".safetensors", ".bin.index.json")) for name in names):
        return FileKind(
            "hf-folder",
            "a Hugging Face folder",
            f"aprgraph reads config.json with *.safetensors beside it: get what is missing, or {_CONVERT}",
        )
    return None


def folder_in_words(folder: Path) -> str:
    """What a folder is that is given for a model, and what to do, for messages."""
    kind = kind_of_folder(folder)
    if kind is None:
        return f"{what_is_in(folder)}; give the path of a .gguf file"
    return Message(f"{kind.what}, not a GGUF file; ", kind.advice)


def what_is_in(folder: Path) -> str:
    """A folder in which nothing is known, in words: ``a folder with 'a.txt', 'b.txt'``."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
    return f"a folder with {listed(map(shown, names), _NAMED)}" if names else "an empty folder"


# -- GGUF files that are no whole model ---------------------------------------------------------------------------------------

#: Architectures that are no text model: what they are.
_OTHER_NETWORKS: Mapping[str, str] = {
    **dict.fromkeys(
        ("flux", "sd1", "sd3", "sdxl", "aura", "ltxv", "hyvid", "wan", "hidream", "cosmos", "lumina2", "qwen_image", "pig", "chroma"),
        "the network of an image or video diffusion model",
    ),
    **dict.fromkeys(("whisper", "wavtokenizer-dec", "snac-dec", "kokoro", "parler-tts", "dia"), "a network for speech"),
    **dict.fromkeys(("t5encoder", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert"),
                    "a text encoder of an architecture that is not there yet"),
}  # fmt: skip


def kind_of_gguf(metadata: Mapping[str, object], tensors: Collection[str]) -> FileKind | None:
    """What a GGUF file is by its metadata and its tensors' names, if it is no whole text model; None if it may be one."""
    declared = metadata.get("general.type")
    architecture = metadata.get("general.architecture")
    if declared == "adapter" or "adapter.type" in metadata or any(name.endswith((".lora_a", ".lora_b")) for name in tensors):
        return _adapter(metadata)
    if declared == "imatrix" or "imatrix.datasets" in metadata:
        return _IMATRIX
    if declared == "mmproj" or architecture == "clip":
        return FileKind(
            "mmproj", "a projector of images or sound (mmproj)", "it goes beside a text model, which is a file of its own: trace that one"
        )
    if architecture == "controlvector" or (tensors and all(name.startswith("direction.") for name in tensors)):
        return FileKind("control-vector", "a control vector", "it is added to a model's hidden states: give the model's own file")
    if isinstance(architecture, str) and architecture in _OTHER_NETWORKS:
        what = f"{_OTHER_NETWORKS[architecture]} (general.architecture {shown(architecture)})"
        return FileKind("other-network", what, Message("aprgraph traces text models; `", MODELS, "` lists the families"))
    if not tensors:
        if "tokenizer.ggml.tokens" in metadata:
            return FileKind("vocabulary", "a vocabulary alone, without tensors", "give the file of a model, with its weights")
        return FileKind("no-tensors", "a GGUF file without tensors", "give the file of a model, with its weights")
    if not any(name.endswith(_WEIGHTS) for name in tensors):
        what = Message(_GIVE, taken_by(*OF_TRACES, what="what another program recorded"))
        return FileKind(ARRAYS_IN_GGUF, "a GGUF file of arrays, none of which is called as a weight is", what)
    return None


def _adapter(metadata: Mapping[str, object]) -> FileKind:
    name, family = metadata.get("general.base_model.0.name"), metadata.get("general.architecture")
    base = shown(name) if isinstance(name, str) else f"a model of the family {shown(family)}" if isinstance(family, str) else "some model"
    lora = metadata.get("adapter.type", "lora") == "lora"
    return FileKind(
        "lora" if lora else "adapter",
        f"{'a LoRA adapter' if lora else 'an adapter'} for {base}",
        "aprgraph traces whole models: merge it into that one with `llama-export-lora -m BASE.gguf --lora ADAPTER.gguf -o MERGED.gguf`",
    )
