"""A GGUF model in several files, NAME-00001-of-00003.gguf and so on, as `llama-gguf-split` and the gguf package
write them.

Every part has `split.no` (from 0), `split.count` and `split.tensors.count`, and tensors of its own; the metadata in
full are in the first. Any part names the set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.graph.sources.single_experts import experts_together
from aprgraph.graph.sources.source import Part, TensorFault, TensorInfo
from aprgraph.graph.words import counted, listed

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_NAMED = 4


def places_of_parts(path: Path) -> list[Path]:
    """Where the files of the model lie whose part ``path`` is by its name, there or not; ``path`` alone if it is
    none by its name.
    """
    matched = _NAME.fullmatch(path.name)
    if matched is None:
        return [path]
    return [path.with_name(f"{matched['stem']}-{part:05}-of-{matched['count']}.gguf") for part in range(1, int(matched["count"]) + 1)]


def doubts_of_name(path: Path) -> tuple[str, ...]:
    """A notice for a file that is one of several by its name alone."""
    count = len(places_of_parts(path))
    what = f"{path.name} is one of {count:,} files by its name, and has no {_COUNT}: it is read as a whole model, so rename it if it is one"
    return (what,) if count > 1 else ()


class SplitError(ModelFileError):
    """The parts make no whole model. ``part`` is the file that was given, ``what`` it is, and ``advice`` what to do."""

    part: GGUFFile
    what: str
    advice: str

    @classmethod
    def of(cls, part: GGUFFile, what: str, advice: str) -> SplitError:
        """The error of a part."""
        error = cls(f"{part.path}: this is {what}; ", advice)
        error.part, error.what, error.advice = part, what, advice
        return error


def is_part(metadata: Mapping[str, object]) -> bool:
    """Whether a GGUF file says that it is one of several."""
    count = metadata.get(_COUNT)
    return isinstance(count, int) and not isinstance(count, bool) and count > 1


class SplitGGUF:
    """All parts of a model as one: metadata of the first, and the tensors of all. ``given`` is any of them.

    Raises SplitError for parts that are not there or do not belong together, and what GGUFFile raises for a part
    that cannot be read. ``faults`` collects what is wrong with single tensors, as in GGUFFile, and ``given`` was
    opened with it.
    """

    notices: tuple[str, ...] = ()
    incomplete = GGUFFile.incomplete

    def __init__(self, given: GGUFFile, faults: list[TensorFault] | None = None) -> None:
        self._given = given
        self._count = given.metadata.integer(_COUNT)
        self._files = self._open(self._places(), faults)
        first = self._files[0]
        self.path, self.metadata = first.path, first.metadata
        found = [_of_part(fault, number) for number, file in enumerate(self._files) for fault in file.faults or ()]
        self.tensors = self._gather({fault.name for fault in found})
        if faults is not None:
            faults[:] = found

    def _broken(self, advice: str) -> SplitError:
        number = self._given.metadata.get(_NUMBER)
        known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < self._count
        which = f"part {int(str(number)) + 1}" if known else "a part"
        return SplitError.of(self._given, f"{which} of {self._count} of a model in several files ({_COUNT})", advice)

    def _places(self) -> list[Path]:
        """Where the parts lie, by the name of the one that was given."""
        path, count = self._given.path, self._count
        matched = _NAME.fullmatch(path.name)
        if matched is None or int(matched["count"]) != count:
            raise self._broken(
                f"name the parts NAME-00001-of-{count:05}.gguf and so on, so that the others can be found beside it, "
                "or join them with `llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf`"
            )
        places = places_of_parts(path)
        missing = [place.name for place in places if not place.is_file()]
        if missing:
            verb, noun = ("is", "part") if len(missing) == 1 else ("are", "parts")
            raise self._broken(f"{listed(missing, _NAMED)} {verb} not beside it: get the missing {noun}")
        return places

    def _open(self, places: Sequence[Path], faults: list[TensorFault] | None) -> list[GGUFFile]:
        given = self._given
        collected = faults is not None
        files = [given if path.name == given.path.name else GGUFFile(path, [] if collected else None) for path in places]
        for number, file in enumerate(files):
            name = shown(file.path.name)
            for key, expected in ((_COUNT, self._count), (_NUMBER, number), (_TENSORS, given.metadata.get(_TENSORS))):
                found = file.metadata.get(key)
                if found != expected:
                    raise self._broken(
                        f"{name} is not part {number + 1} of that model: its {key} is {'missing' if found is None else shown(found)}, "
                        f"expected {shown(expected)}; get that part again"
                    )
        return files

    def _gather(self, damaged: Collection[str]) -> dict[str, TensorInfo]:
        """The tensors of all parts, each of which must be in one: with the ``damaged``, as many as every part says
        that there are.
        """
        found: dict[str, TensorInfo] = {}
        for number, file in enumerate(self._files):
            other = next((name for name in file.tensors if name in found), None)
            if other is not None:
                twice = f"tensor {other!r} is in part {found[other].part + 1} and in part {number + 1}"
                raise self._broken(f"{twice}: they are parts of different models, or of different splits of one; get the parts again")
            found |= {name: replace(info, part=number) for name, info in file.tensors.items()}
        expected, count = self.metadata.get(_TENSORS), len({*found, *damaged})
        if expected is not None and count != expected:
            raise self._broken(
                f"its parts have {counted(count, 'tensor')}, expected {shown(expected)} ({_TENSORS}): "
                "they are parts of different models, or of different splits of one; get the parts again"
            )
        return experts_together(found, self.metadata, self._stored_bytes)

    def _stored_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        return self._files[tensor.part].stored_bytes(tensor)

    @property
    def stem(self) -> str:
        """See ``Source.stem``."""
        return self.path.stem

    @property
    def kind(self) -> str:
        """See ``Source.kind``."""
        return f"GGUF file in {self._count} parts"

    @property
    def details(self) -> Mapping[str, object]:
        """See ``Source.details``."""
        return {**self._files[0].details, "parts": ", ".join(file.path.name for file in self._files)}

    @property
    def parts(self) -> tuple[Part, ...]:
        """See ``Source.parts``."""
        return tuple(part for file in self._files for part in file.parts)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(file.size for file in self._files)

    def wrong_checksum(self) -> str | None:
        """See ``Source.wrong_checksum``; GGUF has none."""
        return None

    def tensor_bytes(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """See ``Source.tensor_bytes``."""
        return self._files[tensor.part].tensor_bytes(tensor)

    def read(self, tensor: TensorInfo, start: int, into: npt.NDArray[np.uint8]) -> None:
        """See ``Source.read``."""
        self._files[tensor.part].read(tensor, start, into)

    def release(self) -> None:
        """See ``Source.release``."""
        for file in self._files:
            file.release()

    @property
    def fingerprint_samples(self) -> int:
        """See ``Source.fingerprint_samples``."""
        return sum(file.fingerprint_samples for file in self._files)

    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the parts in order: the same whichever part was given."""
        digest = hashlib.sha256(b"split")
        for file in self._files:
            digest.update(bytes.fromhex(file.fingerprint()))
        return digest.hexdigest()


def _of_part(fault: TensorFault, number: int) -> TensorFault:
    return replace(fault, part=number, info=None if fault.info is None else replace(fault.info, part=number))
