"""A model as replays read it: its graph for runs of each length, and its weights, decoded once for traces replayed side by side."""

from __future__ import annotations

from functools import cached_property

from aprgraph.graph.ir import Graph
from aprgraph.graph.model import Model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.fix_context import context_choices
from aprgraph.graph.passes.pipeline import recorded_graph
from aprgraph.graph.sources.whole_digest import whole_digest
from aprgraph.graph.tap_plan import Plan
from aprgraph.runtime.decoded_weights import DecodedWeights

#: Bytes of decoded weights that stay for the other side, which reads them next, or for another explanation.
_KEEP = 1 << 27


class ReplayedModel:
    """What all replays of one model share. Raises ModelError for one whose graph cannot be built."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.weights = DecodedWeights(model, _KEEP)
        self._graphs: dict[tuple[str, int], Graph] = {}

    def graph_of(self, positions: str, total: int) -> Graph:
        """The graph of a run of ``total`` positions with the logits of ``positions``, last or all."""
        key = (positions, total)
        if key not in self._graphs:
            self._graphs[key] = recorded_graph(self.graph, Plan(), positions, total)
        return self._graphs[key]

    def context_named_by(self, recorded: Graph | None) -> int | None:
        """A number of positions with which the model's graph chooses as a ``recorded`` one has chosen; None where that shows no choice."""
        if recorded is None:
            return None
        for choice in context_choices(self.graph):
            short, long = (name in recorded for name in self.graph.operand_names(choice.name))
            if short != long:
                return choice.attr_int("limit") + (1 if long else 0)
        return None

    @cached_property
    def graph(self) -> Graph:
        """The model's graph, of runs of any length."""
        return build_graph(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """The model file's."""
        return self.model.file.fingerprint()

    @cached_property
    def digest(self) -> str:
        """That of every byte of the model file, which is read for it."""
        return whole_digest(self.model.file)

    @staticmethod
    def of(model: Model | ReplayedModel) -> ReplayedModel:
        """``model``, wrapped if it is not yet."""
        return model if isinstance(model, ReplayedModel) else ReplayedModel(model)
