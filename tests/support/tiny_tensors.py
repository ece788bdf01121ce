"""The tensors of a tiny model: which there are, its family's outline says; here is what they hold."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter

from aprgraph.graph.ir import Graph
from aprgraph.graph.outline import AskedWeight, Outline
from tests.support.tiny_blocks import encode, random_values

#: Always F32, and larger than other matrices, so that the choice of experts is clear.
_ROUTERS = ("moe_router_logits", "shared_gate_logit")
#: Of streams and of projections of low rank, which no program quantises; and the router of streams, whose input is divided by its length.
_SMALL, _STEERS = ("altup_", "laurel_"), "altup_router"
#: The weights of short convolutions and the small ones of selective state spaces, always F32, and the rates of decay, which are below 0.
_KERNELS, _RATES = ("conv_out", "ssm_dt_b_c", "ssm_dt"), ("delta_decay", "ssm_decay")
#: Whose vectors are factors, around 1.
_HAVE_FACTORS = ("rms_norm", "layer_norm", "ssm_scan", "scale_columns", "expert_scale")
#: Norms with weights of each group.
_ROWS_OF_GROUPS = ("ssm_norm",)
#: Frequency factors, each from its first number to its last.
_FACTORS = {"rope_freqs": (1.0, 8.0), "rope_factors_long": (1.5, 9.0), "rope_factors_short": (1.0, 1.75)}
#: These come behind the others of their layer, in this order: so they lie in the files that golden numbers and docs/bug-zoo.md are of.
_LAST = ("rope_factors_short", "shared_gate_logit", "shared_gate", "shared_up", "shared_out")


@dataclass(frozen=True)
class TensorWriter:
    """Writes tensors of random values; two of them never hold the same ones. ``formats`` are as in ``write_tiny_model``."""

    writer: GGUFWriter
    default: str
    formats: Mapping[str, str]
    seed: int

    def all_of(self, model: Outline) -> None:
        """Every tensor that the graph of a model asks for."""
        for weight in _in_file_order(model.weights.values()):
            self._weight(model.graph, weight)

    def given(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """The values themselves, F32 unless ``formats`` names them."""
        fmt = self._format(name, "F32")
        self._add(name, encode(values, fmt), fmt)

    def _weight(self, graph: Graph, weight: AskedWeight) -> None:
        # A matrix of one row is a vector, as conversion leaves it.
        name, dims = weight.name, weight.dims[1:] if weight.dims[0] == 1 and len(weight.dims) > 1 else weight.dims
        if weight.slot in _FACTORS:
            self.given(name, np.linspace(*_FACTORS[weight.slot], *dims, dtype=np.float32))
        elif weight.slot in _ROUTERS and weight.what == "weight":
            self._add(name, (self._generator(name).standard_normal(dims) * 2 * dims[-1] ** -0.5).astype(np.float32), "F32")
        elif weight.slot in _KERNELS and weight.what == "weight":
            self._add(name, (self._generator(name).standard_normal(dims) * dims[-1] ** -0.5).astype(np.float32), "F32")
        elif weight.slot.startswith(_SMALL) and len(dims) > 1:
            deviation = dims[-1] ** -0.5 * (dims[-1] if weight.slot == _STEERS else 1)
            self._add(name, (self._generator(name).standard_normal(dims) * deviation).astype(np.float32), "F32")
        elif weight.slot in _RATES:
            self.given(name, -np.exp(0.5 * self._generator(name).standard_normal(dims)).astype(np.float32))
        elif len(dims) == 1 or weight.what == "bias" or weight.slot in _ROWS_OF_GROUPS:
            is_factor = any(user.op in _HAVE_FACTORS for user in graph.users(name))
            mean = 1.0 if is_factor and weight.what == "weight" else 0.0
            self.given(name, (mean + 0.2 * self._generator(name).standard_normal(dims)).astype(np.float32))
        else:
            fmt = self._format(name, self.default)
            self._add(name, random_values(fmt, dims, _deviation(graph, weight), self._generator(name)), fmt)

    def _format(self, name: str, default: str) -> str:
        return next((fmt for end, fmt in self.formats.items() if name.endswith(end)), default)

    def _generator(self, name: str) -> np.random.Generator:
        """A generator for one tensor, so that adding a tensor leaves the others as they were."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def _add(self, name: str, values: npt.NDArray[np.generic], fmt: str) -> None:
        self.writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType[fmt])


def _deviation(graph: Graph, weight: AskedWeight) -> float:
    """So that products with a row of deviation 1 have about that, and the rows of an embedding once they are scaled."""
    if weight.slot not in ("embedding", "per_layer_embedding"):
        return float(weight.dims[-1] ** -0.5)
    scale = next(user.attr_float("scale") for user in graph.users(weight.name) if user.op == "embed")
    return float((scale**2) ** -0.5)


def _in_file_order(weights: Iterable[AskedWeight]) -> Iterator[AskedWeight]:
    """Layer by layer, each slot's bias behind its weight."""
    for _, part in groupby(weights, key=lambda weight: weight.layer):
        group = list(part)
        first = {weight.slot: index for index, weight in reversed(list(enumerate(group)))}
        yield from sorted(group, key=lambda weight: (_LAST.index(weight.slot) if weight.slot in _LAST else -1, first[weight.slot]))
