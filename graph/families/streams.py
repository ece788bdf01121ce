"""A hidden state of several streams, of which each layer works on one: AltUp (Baykal et al. 2023, arXiv:2301.13310)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import flag, number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

_MOST_STREAMS = 16
#: The mean square of a stream counts as at least this where it is given the magnitude of another.
_LEAST = 1e-5


class Streams(Decoder):
    """A decoder whose hidden state is several streams side by side, the first of which the embedding is.

    Before a layer each stream is predicted of all; the layer works on the active one, and all are corrected by what it made of it.
    """

    streams = number("altup.num_inputs", "altup_num_inputs", 4, least=2, most=_MOST_STREAMS)
    active = number("altup.active_idx", "altup_active_idx", 0, least=0)
    scales_corrected = flag("altup_correct_scale", "altup_correct_scale", True)
    gguf_names = {
        "altup_predict_coefs": "altup_predict_coef",
        "altup_correct_coefs": "altup_correct_coef",
        "altup_scaled": "altup_correct_scale",
    }
    hf_names = {
        "altup_proj": "altup_projections",
        "altup_unembd_proj": "altup_unembed_projections",
        "altup_router_norm": "altup.router_norm",
        "altup_router": "altup.modality_router",
        "altup_predict_coefs": "altup.prediction_coefs",
        "altup_correct_coefs": "altup.correction_coefs",
        "altup_scaled": "altup.correct_output_scale",
    }

    def check(self) -> None:
        """Raise ModelError for an active stream that is none."""
        super().check()
        if self.active >= self.streams:
            raise ModelError(
                f"{self.metadata.path}: {self.named('altup.active_idx')} is {self.active}, but there are {self.streams} streams "
                f"({self.named('altup.num_inputs')}), from 0 on"
            )

    @property
    def unused_tensors(self) -> Mapping[str, str]:
        """See ``Family.unused_tensors``."""
        name = self.tensor_name("altup_scaled")
        scales = {} if self.scales_corrected else {f"blk.{layer}.{name}": "of a scale that is not applied" for layer in range(self.layers)}
        return {**super().unused_tensors, **scales}

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, and beside it what projections make of it, each with the magnitude of the embedding."""
        x = super().embed(g, table)
        made = g.inner("altup_projected", "head_linear", x, g.weight("altup_proj", self.streams - 1, self.hidden, self.hidden), shared=True)
        others = g.inner("altup_rescaled", "match_rms", made, x, least=_LEAST)
        return g.of_embedding("altup_embedding", "join_heads", x, others, heads=1)

    def finish(self, g: GraphBuilder, x: str) -> str:
        """The mean of the first stream and of projections of the others, with the magnitude of the first; and the last norm."""
        first = g.inner("altup_first", "columns", x, start=0, stop=self.hidden)
        others = g.inner("altup_others", "columns", x, start=self.hidden, stop=self.streams * self.hidden)
        made = g.inner("altup_unembedded", "head_linear", others, g.weight("altup_unembd_proj", self.streams - 1, self.hidden, self.hidden))
        rescaled = g.inner("altup_unembedded_rescaled", "match_rms", made, first, least=_LEAST)
        joined = g.inner("altup_unembedded_all", "join_heads", first, rescaled, heads=1)
        return super().finish(g, g.apply("altup_merged", "stream_mean", joined, streams=self.streams))

    def predict(self, g: GraphBuilder, x: str) -> str:
        """Each stream before a layer, of all streams behind the last one."""
        steered = self.steer(g, "altup_predict", self.active_of(g, "altup_before", x))
        coefs = g.linear("altup_predict_coefs", steered, self.streams * self.streams)
        return g.apply("altup_predicted", "altup_predict", x, coefs)

    def correct(self, g: GraphBuilder, predicted: str, x: str) -> str:
        """Each stream behind a layer, which made ``x`` of the active one."""
        coefs = g.linear("altup_correct_coefs", self.steer(g, "altup_correct", x), self.streams)
        return g.apply("altup_corrected", "altup_correct", predicted, x, coefs, active=self.active)

    def steer(self, g: GraphBuilder, which: str, x: str) -> str:
        """What the numbers of a prediction or a correction are made of: tanh of a router's scores of a stream."""
        normed = g.apply(f"{which}_norm", "rms_norm", x, g.weight("altup_router_norm", self.hidden), eps=self.eps, groups=1)
        scaled = g.inner(f"{which}_scaled", "scale", normed, factor=1 / self.hidden)
        scores = g.inner(f"{which}_scores", "linear", scaled, g.weight("altup_router", self.streams, self.hidden))
        return g.apply(f"{which}_router", "tanh", scores)

    def active_of(self, g: GraphBuilder, name: str, x: str) -> str:
        """The active one of the streams ``x``: a stage if there is one of that name."""
        add = g.apply if name == "altup_active" else g.inner
        return add(name, "columns", x, start=self.active * self.hidden, stop=(self.active + 1) * self.hidden)

    def scaled(self, g: GraphBuilder, corrected: str) -> str:
        """The active stream of those behind a layer, times a vector."""
        x = self.active_of(g, "altup_corrected_active", corrected)
        return g.apply("altup_scaled", "scale_columns", x, g.weight("altup_scaled", self.hidden)) if self.scales_corrected else x
