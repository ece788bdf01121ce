"""A model opened so that what is wrong with it is written down and gone past, where the loader stops at the first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.errors import ModelError
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.model import Model
from aprgraph.graph.sources.source import Source, TensorInfo

_T = TypeVar("_T")
_LAYER = re.compile(r"blk\.(\d+)\.")


class LenientMetadata(Metadata):
    """Metadata that puts what the tensors say in place of a value that is missing or makes no sense, and keeps the errors.

    Raises ModelError where the tensors do not say it.
    """

    def __init__(self, file: Source) -> None:
        super().__init__(file.path, dict(file.metadata))
        self.errors: dict[str, ModelError] = {}
        self._file = file
        self.dialect, self.remedy = file.metadata.dialect, file.metadata.remedy

    @property
    def no_tokenizer(self) -> str | None:
        """See ``Metadata.no_tokenizer``."""
        return self._file.metadata.no_tokenizer

    def own_name(self, key: str) -> str:
        """See ``Metadata.own_name``."""
        return self._file.metadata.own_name(key)

    def own_tensor(self, name: str) -> str:
        """See ``Metadata.own_tensor``."""
        return self._file.metadata.own_tensor(name)

    def described(self, key: str) -> str:
        """See ``Metadata.described``."""
        return self._file.metadata.described(key)

    def _or_guess(self, key: str, read: Callable[[], _T], made: Callable[[int | float], _T]) -> _T:
        """What ``read`` gives, else what is ``made`` of what the tensors say."""
        try:
            return read()
        except ModelError as error:
            guess = _guess(self._file, self, key.partition(".")[2])
            if guess is None:
                raise
            self.errors[key] = error
            return made(guess)

    def positive(self, key: str, default: int | None = None) -> int:
        """See ``Metadata.positive``."""
        read = super().positive
        return self._or_guess(key, lambda: read(key, default), int)

    def real(self, key: str, default: float | None = None) -> float:
        """See ``Metadata.real``."""
        read = super().real
        return self._or_guess(key, lambda: read(key, default), float)

    def per_layer(self, key: str, layers: int, default: int | None = None, *, least: int = 1) -> tuple[int, ...]:
        """See ``Metadata.per_layer``."""
        return self._or_guess(
            key, lambda: super(LenientMetadata, self).per_layer(key, layers, default, least=least), lambda guess: (int(guess),) * layers
        )


def _guess(file: Source, metadata: Mapping[str, object], key: str) -> int | float | None:
    """What the tensors say about the key, which stands without its architecture; None if they do not."""

    def dim(axis: int, *names: str) -> int | None:
        return next((file.tensors[name].dims[axis] for name in names if name in file.tensors), None)

    layers = [int(matched[1]) for name in file.tensors if (matched := _LAYER.match(name))]
    if key == "block_count":
        return max(layers) + 1 if layers else None
    if key == "embedding_length":
        return dim(-1, "token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight")
    if key == "feed_forward_length":
        return dim(-1, "blk.0.ffn_down.weight", "blk.0.ffn_down_exps.weight")
    if key == "attention.head_count":
        rows, size = dim(0, "blk.0.attn_q.weight"), _head_size(file, metadata)
        return None if rows is None or not size else rows // size
    if key == "expert_count":
        return dim(0, "blk.0.ffn_gate_inp.weight")
    return {"context_length": 1 << 20, "attention.layer_norm_rms_epsilon": 1e-5}.get(key)


def _head_size(file: Source, metadata: Mapping[str, object]) -> int | None:
    if "blk.0.attn_q_norm.weight" in file.tensors:
        return file.tensors["blk.0.attn_q_norm.weight"].dims[-1]
    known = (value for key, value in metadata.items() if key.endswith((".attention.key_length", ".rope.dimension_count")))
    return next((value for value in known if isinstance(value, int) and value > 0), None)


@dataclass(frozen=True)
class LenientModel(Model):
    """A model whose tensors are what is asked for, whether they are there or not; ``asked`` says what was asked, by name.

    ``missing`` and ``misfits`` hold the errors.
    """

    asked: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    missing: dict[str, ModelError] = field(default_factory=dict)
    misfits: dict[str, ModelError] = field(default_factory=dict)

    def tensor(self, name: str, dims: tuple[int, ...] | None = None) -> TensorInfo:
        """See ``Model.tensor``; raises nothing."""
        self.asked[name] = dims
        try:
            return super().tensor(name, dims)
        except ModelError as error:
            (self.misfits if self.has(name) else self.missing)[name] = error
            return TensorInfo(name, dims or (self._rows(), self.family.hidden), BLOCK_FORMATS["F32"], 0, 0)

    def lacks(self, names: Sequence[str], beside: str) -> None:
        """See ``Model.lacks``; raises nothing."""
        for name in names:
            self.missing[name] = ModelError(f"is missing, where {beside} is there")

    def _rows(self) -> int:
        head = self.file.tensors.get("output.weight")
        return 1 if head is None else head.dims[0]
