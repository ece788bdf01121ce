"""Files of arrays of other programs: NumPy's .npz and .npy, torch's .pt and .pth, .safetensors, ONNX's tensors, text, and folders of them.

NumPy and torch read theirs, without running what a pickle in them says. Arrays stay in the file until they are asked for.
"""

from __future__ import annotations

import math
import warnings
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from aprgraph.graph.errors import ModelFileError, TraceError, shown
from aprgraph.graph.sources.room import available_memory
from aprgraph.graph.words import shape_text
from aprgraph.runtime.trace.gguf_arrays import GGUF, read_gguf_arrays
from aprgraph.runtime.trace.number_files import is_number_file, is_printed, read_numbers, refuse_printed
from aprgraph.runtime.trace.onnx_tensor import ONNX, read_onnx_tensor
from aprgraph.runtime.trace.unread_files import Unread, explain, list_folder

if TYPE_CHECKING:
    from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor

NUMPY, TORCH, SAFETENSORS = (".npz", ".npy"), (".pt", ".pth"), (".safetensors",)
#: What a tensor of each dtype of a safetensors file is to NumPy.
_STORED: dict[str, Any] = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
    "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
#: How NumPy writes bfloat16, which is no type of its own: elements of two bytes of no type.
_BFLOAT16_AS_WRITTEN = np.dtype("V2")
#: What SGLang's dumper saves of each tensor, in a file of its own.
_VALUE, _DUMPED = "value", {"value", "meta"}
#: Of a container in a torch file, how many others it may lie in.
_DEEPEST = 16
#: How a .npy file begins, and what a file may begin with, to be told by NumPy what it is: an array or a pickle; under the
#: name .npz a zip file too, empty or not.
_NUMPY_MAGIC = b"\x93NUMPY"
_BEGINNINGS = {".npy": (_NUMPY_MAGIC, b"\x80"), ".npz": (_NUMPY_MAGIC, b"\x80", b"PK\x03\x04", b"PK\x05\x06")}


class ArrayFiles(Mapping[str, Any]):
    """The arrays of a file or folder by name: NumPy arrays, tensors of torch, or whatever else a torch file holds.

    A file's name without its ending is the name of its one array, and in a folder comes before the names of several.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Any]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Any:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def is_array_file(name: str) -> bool:
    """Whether a file of this name holds arrays, by its ending; see ``is_number_file`` for those of text."""
    return PurePosixPath(name).suffix.lower() in (*NUMPY, *TORCH, *SAFETENSORS, *ONNX)


def open_array_file(path: Path) -> ArrayFiles:
    """The arrays of one file. Raises TraceError for what cannot be read as what its ending says."""
    return ArrayFiles(_readers_of(path, path.stem, ""))


def open_array_folder(folder: Path) -> tuple[ArrayFiles, list[Unread]]:
    """The arrays of all files below ``folder``, and the other files that seem to hold tensors, each with why it is not read.

    Raises TraceError where two files hold arrays of one name.
    """
    readers: dict[str, Callable[[], Any]] = {}
    unread = []
    files = list_folder(folder).files
    # Text beside arrays says something of them.
    as_text = set() if any(map(is_array_file, files)) else {file for file in files if is_number_file(folder / file)}
    for file in files:
        stem = str(PurePosixPath(file).with_suffix(""))
        problem, found = None, {}
        if is_array_file(file) or file in as_text:
            try:
                found = _readers_of(folder / file, stem, f"{stem}.")
            except TraceError as error:
                problem = str(error).removeprefix(f"{folder / file}: ")
        one = Unread(file, problem) if problem is not None and file in as_text else explain(folder, file, problem) if not found else None
        if one is not None:
            unread.append(one)
        for name, reader in found.items():
            if name in readers:
                raise TraceError(f"{folder}: two files hold an array of the name {shown(name)}, one of them {file}; take one of them away")
            readers[name] = reader
    return ArrayFiles(readers), unread


def _readers_of(path: Path, alone: str, before: str) -> dict[str, Callable[[], Any]]:
    """What a file holds: its one array as ``alone``, else several with ``before`` in front of their names."""
    suffix = path.suffix.lower()
    if suffix in TORCH:
        held = _load_torch(path)
        return {before + name if name else alone: _constant(value) for name, value in _flatten(held, "", path, 0)}
    if suffix in SAFETENSORS:
        tensors = _open_safetensors(path)
        return {before + name: _stored(tensor) for name, tensor in tensors.items()}
    if suffix in ONNX:
        name, array = read_onnx_tensor(path)
        return {name or alone: _constant(array)}  # of a whole model no two have one name
    if suffix == GGUF:
        return {before + name: reader for name, reader in read_gguf_arrays(path).items()}
    if suffix not in NUMPY:
        if not is_number_file(path, objects=True) and is_printed(path):
            raise refuse_printed(path)
        return {before + name if name else alone: _constant(array) for name, array in read_numbers(path).items()}
    _require_beginning(path, suffix)
    if suffix == ".npy":
        array = _guarded(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
        return {alone: _constant(_as_numbers(array))}
    archive = _guarded(path, lambda: _open_archive(path))
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise TraceError(f"{path}: holds one array, as a .npy file does; name it so")
    twice = next((name for name, count in Counter(archive.files).items() if count > 1), None)
    if twice is not None:
        raise TraceError(f"{path}: holds two arrays of the name {shown(twice)}; save it again")
    return {before + name: _member(path, archive, name) for name in archive.files}


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, which stay in it. Raises TraceError."""
    from aprgraph.graph.sources.checkpoint.safetensors import SafetensorsFile  # noqa: PLC0415 -- readers of models are not needed for others

    try:
        return SafetensorsFile(path).tensors
    except ModelFileError as error:
        raise TraceError(str(error)) from None


def _stored(tensor: StoredTensor) -> Callable[[], Any]:
    """The array of a tensor; of what NumPy has no type for, a description, which is refused where it is read."""
    kind = _STORED.get(tensor.dtype)
    if kind is None:
        return _constant(f"elements of the dtype {tensor.dtype}")
    return lambda: tensor.view().view(kind).reshape(tensor.dims)


def _require_beginning(path: Path, suffix: str) -> None:
    """Raise TraceError for a file that begins as none of its name does; of one, NumPy would say that it is a pickle."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(len(_NUMPY_MAGIC))
        if not head.startswith(_BEGINNINGS[suffix]):
            raise TraceError(f"{path}: is no {suffix} file: begins with {head!r}; save it again")


def _open_archive(path: Path) -> Any:
    """The .npz file, held open as long as somebody reads from it."""
    file = path.open("rb")
    try:
        archive = np.load(file, allow_pickle=False)
    except BaseException:
        file.close()
        raise
    weakref.finalize(archive, file.close)
    return archive


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _member(path: Path, archive: Any, name: str) -> Callable[[], Any]:
    def read() -> Any:
        _require_size(path, archive, name)
        return archive[name]

    return lambda: _as_numbers(_guarded(path, read, f" array {shown(name)}"))


def _require_size(path: Path, archive: Any, name: str) -> None:
    """Raise TraceError unless a member has as many bytes as its own header says, and these fit into memory.

    A small archive may hold any number of zeros.
    """
    member = next((one for one in archive.zip.infolist() if one.filename in (name, f"{name}.npy")), None)
    if member is None:
        return
    with archive.zip.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        expected = stream.tell() + math.prod(shape) * dtype.itemsize
    what = f"{path}: array {shown(name)} of {shape_text(shape) or 'one'} {dtype}"
    if not dtype.hasobject and expected != member.file_size:
        raise TraceError(f"{what} has {member.file_size} bytes in the file, expected {expected}; it is damaged: save it again")
    available = available_memory()
    if available is not None and expected > available:
        raise TraceError(f"{what} takes {expected / 1e9:.1f} GB, and {available / 1e9:.1f} GB of memory are left; save it as .npy")


def _as_numbers(array: Any) -> Any:
    return array.view(ml_dtypes.bfloat16) if getattr(array, "dtype", None) == _BFLOAT16_AS_WRITTEN else array


def _guarded(path: Path, read: Callable[[], Any], what: str = "") -> Any:
    """What ``read`` returns. Raises TraceError for whatever NumPy says of a file that is damaged or of another kind."""
    try:
        return read()
    except OSError as error:
        raise TraceError(f"{path}:{what} cannot be read: {error.strerror or error}") from None
    except TraceError:
        raise
    except Exception as error:  # noqa: BLE001 -- a damaged file makes NumPy raise anything
        if any(words in str(error) for words in ("allow_pickle", "Object arrays", "Python objects")):
            raise TraceError(f"{path}:{what} holds Python objects, which are not read; save plain arrays of numbers") from None
        if "dtype descriptor" in str(error):  # as ml_dtypes writes float8_e5m2
            raise TraceError(
                f"{path}:{what} holds elements of a type that NumPy does not know, such as float8; save it as float32"
            ) from None
        reason = shown(str(error).partition("\n")[0]) if str(error) else type(error).__name__
        raise TraceError(f"{path}:{what} is damaged, or no {path.suffix} file ({reason}); save it again") from None


def _load_torch(path: Path) -> Any:
    """What a torch file holds, read with weights_only=True: tensors and plain containers alone. Raises TraceError."""
    try:
        import torch  # noqa: PLC0415 -- optional, and seconds to import
    except ModuleNotFoundError:
        raise TraceError(
            f"{path}: is read by torch, which is not installed: install it (pip install torch), or save the arrays with numpy.savez"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which the error below tells
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001 -- a damaged file makes torch raise anything
        if "weights_only" in str(error).lower():
            raise TraceError(
                f"{path}: holds Python objects beside tensors, which torch does not load with weights_only=True; "
                "save a dict of tensors: torch.save({name: tensor}, path)"
            ) from None
        reason = shown(str(error).partition("\n")[0][:200]) if str(error) else type(error).__name__
        raise TraceError(f"{path}: is damaged, or no file of torch ({reason}); save it again") from None


def _flatten(held: Any, name: str, path: Path, depth: int) -> Iterator[tuple[str, Any]]:
    """Each array with its name, of nested dicts and lists such as ``hidden_states.3``: what a file says of them is none."""
    if depth > _DEEPEST:
        raise TraceError(f"{path}: {shown(name)} lies in more than {_DEEPEST} dicts or lists; save a dict of tensors")
    inside: list[tuple[Any, Any]] = []
    if held is None or isinstance(held, str | bytes | bool | int | float):
        return
    if isinstance(held, Mapping) and set(held) == _DUMPED and hasattr(held[_VALUE], "shape"):
        held = held[_VALUE]
    if isinstance(held, Mapping):
        inside = list(held.items())
    elif isinstance(held, list | tuple) and any(hasattr(item, "shape") or isinstance(item, Mapping | list | tuple) for item in held):
        inside = list(enumerate(held))
    else:
        yield name, held
    for key, value in inside:
        yield from _flatten(value, f"{name}.{key}" if name else str(key), path, depth + 1)
