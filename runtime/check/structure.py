"""Holds tensors and metadata against each other: what is missing, does not fit, or has no place."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from aprgraph.graph.errors import GraphError, ModelError, UnsupportedModelError
from aprgraph.graph.families import open_family
from aprgraph.graph.model import Model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.side_tensors import find_left_out
from aprgraph.graph.sources.source import Source
from aprgraph.graph.words import shape_text
from aprgraph.runtime.check.describe import text_of
from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.check.lenient import LenientMetadata, LenientModel


class Structure:
    """``model`` is the model as far as it could be opened, ``why_not`` why it could not, ``findings`` what is wrong.

    ``damaged`` are tensors that are in the list of the file, and whose place in it is wrong: they are not missing.
    """

    def __init__(self, file: Source, damaged: Collection[str]) -> None:
        self.model: Model | None = None
        self.why_not: str | None = None
        self._file, self._damaged = file, damaged
        self.metadata = LenientMetadata(file)
        self.findings = list(self._look())

    def _look(self) -> Iterator[Finding]:
        path = self._file.path
        try:
            family = open_family(self.metadata)
        except (ModelError, UnsupportedModelError) as error:
            yield from self._keys()
            unsupported = isinstance(error, UnsupportedModelError)
            yield Finding.of("key-unsupported" if unsupported else "key-wrong", "", text_of(error, path, ""))
            self.why_not = "tensors, which were not held against the metadata: these make no model that aprgraph has"
            return
        yield from self._keys()
        left_out = find_left_out(self._file.tensors, family.layers, family.extra_layers, (), family.unused_tensors)
        self.model = model = LenientModel(self._file, self.metadata, family, {}, left_out=tuple(left_out))
        try:
            build_graph(model)
        except (ModelError, UnsupportedModelError, GraphError) as error:
            # The last thing that the builder does is to refuse tensors without a place, which are listed below.
            if "output_norm.weight" not in model.asked:
                yield Finding.of("key-unsupported", "", text_of(error, path, ""))
                self.why_not = "the tensors behind those that could not be placed"
        yield from self._tensors(model)

    def _keys(self) -> Iterator[Finding]:
        for key, error in self.metadata.errors.items():
            name = self.metadata.own_name(key)
            yield Finding.of("key-wrong", name, text_of(error, self._file.path, name))

    def _tensors(self, model: LenientModel) -> Iterator[Finding]:
        for code, errors in (("tensor-missing", model.missing), ("tensor-shape", model.misfits)):
            for name, error in errors.items():
                if name not in self._damaged:
                    yield Finding.of(code, name, text_of(error, self._file.path, name))
        left_out = {name for group in model.left_out for name in group.names}
        if self.why_not is None:
            for name, info in self._file.tensors.items():
                if name not in model.asked and name not in left_out:
                    yield Finding.of("tensor-unused", name, f"{info.format.name} {shape_text(info.dims)}")
        for group in model.left_out:
            yield Finding.of("tensor-ignored", "", group.sentence)
