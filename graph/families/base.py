"""The base class of model families: numbers, names of weights, and a graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.conversion import Conversion, Indices
from aprgraph.graph.families.numbers import Reading, flag, number, real
from aprgraph.graph.families.weight_names import GGUF_NAMES, HF_NAMES, WITHOUT_END
from aprgraph.graph.families.window import Windows
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.stages import Stage

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

MAX_LAYERS = 4096
#: The first sentence of a family's docstring: models, source, what sets them apart.
_ABOUT = re.compile(r"(?P<models>[^(:]+?)(?: \((?P<source>[^)]+)\))?: (?P<what>.+?)\.(?:\s|$)", re.DOTALL)

#: Which elements of a head RoPE turns together: neighbours (0, 1), (2, 3) …, or those of both halves (0, D/2),
#: (1, D/2 + 1) ….
Order = Literal["interleaved", "halves"]


class Family:
    """One architecture, as its paper describes it; subclasses declare numbers as attributes and write ``graph``.

    The first sentence of a subclass's docstring reads ``MODELS (SOURCE): WHAT SETS THEM APART.``
    """

    #: ``general.architecture`` of its GGUF files.
    architecture: ClassVar[str]
    #: The classes of Hugging Face transformers that compute the same: their names, with blanks between.
    hf_classes: ClassVar[str] = ""
    #: The ``model_type`` that tells its checkpoints where they name another family's class.
    hf_kind: ClassVar[str] = ""
    #: Whose numbers those of the family were compared with, with versions. Those of its parent are not inherited.
    checked_against: ClassVar[str] = ""
    #: Which elements of a head RoPE pairs in GGUF files. In transformers they are halves, unless ``hf_pairing`` says
    #: otherwise.
    pairing: ClassVar[Order] = "halves"
    hf_pairing: ClassVar[Order] = "halves"
    #: What transformers adds to the weights of norms that it multiplies by. GGUF files hold the sum.
    hf_norm_offset: ClassVar[float] = 0.0
    #: How a checkpoint that has gate and up of all experts as one tensor orders them: the rows of gate, then those of up, or
    #: in alternation.
    hf_gate_up: ClassVar[Order] = "halves"
    #: What the family calls otherwise than most: by slot, see graph/families/weight_names.py.
    #: Which slots a checkpoint holds with the rows of x first.
    hf_transposed: ClassVar[Collection[str]] = ()
    #: Which of the values that a module of transformers returns is its product, by slot, where it is not the first.
    hf_outputs: ClassVar[Mapping[str, int]] = {}
    #: Numbers of a layer that a checkpoint holds as tensors, to their keys in GGUF: an array of one for each layer.
    hf_numbers: ClassVar[Mapping[str, str]] = {}
    #: What transformers calls the decoder in the whole model, and the layers in the decoder.
    hf_root: ClassVar[str] = "model"
    hf_layers: ClassVar[str] = "layers"
    #: What it calls the module of RoPE's angles in the decoder; "" where it has none.
    hf_rope: ClassVar[str] = "rotary_emb"
    #: Stages that transformers computes outside of a layer and gives it: to the names of the layer's arguments.
    hf_layer_inputs: ClassVar[Mapping[str, str]] = {}
    #: Parts of names that checkpoints have otherwise than transformers' modules: to the modules' own.
    hf_renamed: ClassVar[Mapping[str, str]] = {}
    #: Keys of GGUF that stand without the architecture in front.
    bare_keys: ClassVar[Collection[str]] = ()
    gguf_names: ClassVar[Mapping[str, str]] = {}
    hf_names: ClassVar[Mapping[str, str]] = {}

    #: Numbers that say in which form a file holds the model, and not which model it is.
    form_numbers: ClassVar[Collection[str]] = ()

    #: Stages that no other family has, each with the stage that it comes before.
    stages: ClassVar[Sequence[tuple[Stage, str]]] = ()

    #: Keys, without the architecture in front, that converters leave out of its files: that they are absent is no
    #: reason for doubt.
    absent_keys: ClassVar[Collection[str]] = ()

    #: Which op norms are, and whether a LayerNorm must have biases. Those that a file has are always used.
    norm_op: ClassVar[Literal["rms_norm", "layer_norm"]] = "rms_norm"
    norm_bias: ClassVar[bool] = False
    #: Whether norms have weights. LayerNorms may have none.
    norm_weights: ClassVar[bool] = True

    #: The activation of the feed-forward networks, and the base of RoPE of files that name none.
    activation: ClassVar[str] = "silu"
    rope_base: ClassVar[float] = 10000.0

    blocks = number("block_count", "num_hidden_layers", most=MAX_LAYERS)
    #: Blocks behind the last layer, which predict later tokens and on which no logit depends.
    extra_layers = number("nextn_predict_layers", "num_nextn_predict_layers", 0, least=-(1 << 63))
    context = number("context_length", "max_position_embeddings")
    hidden = number("embedding_length", "hidden_size")
    eps = real("attention.layer_norm_rms_epsilon", "rms_norm_eps", least=0)
    #: Whether no position attends to later ones.
    causal = flag("attention.causal", None, True)
    #: The size of a head of q and k, and of an expert that every position uses; 0 without such.
    head_size: Reading[int] = Reading(lambda _: 0)
    shared_ffn: Reading[int] = Reading(lambda _: 0)
    #: For each layer how many positions it attends to, 0 for all.
    windows: Reading[tuple[int, ...]] = Reading(lambda f: (0,) * f.layers)

    def __init__(self, metadata: Metadata) -> None:
        """Read all numbers of a model. Raises ModelError, or UnsupportedModelError for an unsupported variant."""
        self.metadata = metadata
        if not 0 <= self.extra_layers < self.blocks and self.metadata.dialect != "hf":
            raise ModelError(
                f"{metadata.path}: {self.named('nextn_predict_layers')} is {self.extra_layers}, expected a number below "
                f"{self.named('block_count')}, {self.blocks}"
            )
        for name in self.readings():
            getattr(self, name)
        self.check()

    @property
    def layers(self) -> int:
        """How many layers the logits depend on: GGUF counts those that predict later tokens too, config.json does not."""
        return self.blocks if self.metadata.dialect == "hf" else self.blocks - self.extra_layers

    @property
    def row_order(self) -> Order:
        """Which elements of a head RoPE pairs in the model's own file: that tells the order of the rows of q and k."""
        return self.hf_pairing if self.metadata.dialect == "hf" else self.pairing

    @property
    def window_period(self) -> int:
        """n if every n-th layer attends to all positions and the others have a window; 0 if all are alike."""
        windows = self.readings()["windows"]
        return windows.period if isinstance(windows, Windows) else 0

    @classmethod
    def has_chunks(cls) -> bool:
        """Whether windows are chunks of positions, which do not slide."""
        windows = cls.readings()["windows"]
        return isinstance(windows, Windows) and windows.chunked

    @property
    def has_head(self) -> bool:
        """Whether the model has a head that gives logits. Files of a class of transformers without one have none."""
        return self.metadata.has_head

    @property
    def unused_tensors(self) -> Mapping[str, str]:
        """Tensors that the model with its numbers has no use for, by name, with what they are."""
        return {}

    def size_of(self, layer: int) -> int:
        """The size of a head of q and k in a layer."""
        return self.head_size

    def check(self) -> None:
        """Raise ModelError or UnsupportedModelError for numbers that contradict each other."""

    def graph(self, g: GraphBuilder) -> str:
        """Write the model's graph with ``g``; returns the node of the logits."""
        raise NotImplementedError

    def key(self, name: str) -> str:
        """The whole key of a number in GGUF."""
        return name if name in self.bare_keys else f"{self.architecture}.{name}"

    def named(self, name: str) -> str:
        """What the model's own file calls that number: the key in a GGUF file, the field in config.json."""
        return self.metadata.own_name(self.key(name))

    @classmethod
    def small_numbers(cls, numbers: Mapping[str, Any]) -> Mapping[str, object]:  # noqa: ARG003 -- those of other families
        """What tells the layers of a small model of these ``numbers`` apart, by key without the architecture."""
        return {}

    @classmethod
    def readings(cls) -> dict[str, Reading[Any]]:
        """Everything that the family reads, by attribute, in the order of declaration, the parents' first."""
        found: dict[str, Reading[Any]] = {}
        for kind in reversed(cls.__mro__):
            for name, value in vars(kind).items():
                if isinstance(value, Reading):
                    found[name] = value
                else:
                    found.pop(name, None)  # a subclass knows it
        return found

    @classmethod
    def own_hf_classes(cls) -> list[str]:
        """The names of the classes that the family itself computes. Those of its parent are not inherited."""
        found: str = vars(cls).get("hf_classes", "")
        return found.split()

    @classmethod
    def gguf_name(cls, slot: str) -> str:
        """The name in GGUF of the weight of ``slot``, without `blk.<layer>.` and `.weight`."""
        return cls.gguf_names.get(slot, GGUF_NAMES.get(slot, slot))

    @classmethod
    def tensor_name(cls, slot: str, what: str = "weight") -> str:
        """The name in GGUF of a tensor of ``slot``, "weight", "bias" or "scale", without `blk.<layer>.`."""
        name = cls.gguf_name(slot)
        return name if name in WITHOUT_END and what == "weight" else f"{name}.{what}"

    @classmethod
    def conversions(
        cls,
        slot: str,
        config: Mapping[str, Any],  # noqa: ARG003 -- that of other families
        what: Literal["weight", "bias"] = "weight",
    ) -> Mapping[str, Conversion]:
        """By slot in GGUF what is made of the tensor that a checkpoint has in ``slot``, its weight or its bias.

        ``config`` are the fields of the text model in config.json.
        """
        if cls.hf_norm_offset and slot.endswith("norm") and what == "weight":
            offset = np.float32(cls.hf_norm_offset)
            return {slot: Conversion(values=lambda values: values.astype(np.float32) + offset)}
        return {slot: Conversion()}

    @classmethod
    def is_transposed(cls, slot: str, dims: tuple[int, ...], config: Mapping[str, Any]) -> bool:  # noqa: ARG003 -- those of other families
        """Whether a checkpoint's weight of ``slot``, of ``dims``, has the rows of x first; ``config`` is as in ``conversions``."""
        return slot in cls.hf_transposed

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> type[Family]:  # noqa: ARG003 -- that of other families
        """The family of a checkpoint of this one's class: another where GGUF has two for the class. ``config`` is as in ``conversions``."""
        return cls

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a config.json, with what transformers' class of the configuration makes of them in place of what it is made of."""
        return fields

    @classmethod
    def column_order(cls, stage: str, config: Mapping[str, Any]) -> Indices | None:  # noqa: ARG003 -- that of other families
        """The columns of a stage as transformers has them, in the order of GGUF; None where that is the same."""
        return None

    @classmethod
    def column_factors(
        cls,
        stage: str,  # noqa: ARG003 -- that of other families
        config: Mapping[str, Any],  # noqa: ARG003 -- that of other families
    ) -> npt.NDArray[np.float32] | None:
        """What transformers multiplies the columns of a stage by behind the module that gives it; None for nothing."""
        return None

    @classmethod
    def hf_name(cls, slot: str) -> str | None:
        """The name in transformers of the module that holds the weight of ``slot``; None if there is none."""
        return cls.hf_names.get(slot, HF_NAMES.get(slot))

    @classmethod
    def about(cls) -> tuple[str, str, str]:
        """Models, source (or nothing), and what sets them apart, from the docstring."""
        found = _ABOUT.match(" ".join((cls.__doc__ or "").split()))
        if found is None:
            return cls.__name__, "", ""
        return found["models"], found["source"] or "", found["what"]
