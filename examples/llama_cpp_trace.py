"""Run a GGUF model in llama.cpp and write what its layers compute as a trace, to be compared with aprgraph's own.

    pip install llama-cpp-python
    python llama_cpp_trace.py model.gguf --prompt "What is 2+2?" -o theirs
    aprgraph run model.gguf --prompt "What is 2+2?" --taps all --layers all -o ours
    aprgraph diff ours theirs

llama.cpp calls a function back for each node of its graph, before and after it computes it (``cb_eval`` of llama_context_params). Which
stage a node is follows from its operation, from the model tensor that it reads, and, where it reads none, from the name that llama.cpp
gives it. Tried with llama-cpp-python 0.3.36 and the families llama (Mixtral too), qwen2, qwen2moe, qwen3, qwen3moe, gemma2,
gemma3, phi3, olmo2 (OLMo 3 too), granite, glm4, gpt-oss and arcee, and with the library of release 0.5.0 also deepseek2 and llama4.

What to know of its numbers:
- Activations are rounded to 8 bits before each matrix that is quantised: a relative error of about 1 % in what follows. The manifest says
  so (``"arithmetic": "q8-activations"``). Before F16 and BF16 matrices they are rounded to these.
- The KV cache is in float32 here, and flash attention, which has no scores and no weights, is off, so that attention can be compared
  closely. ``--kv f16 --flash on`` is what llama.cpp does by itself on a CPU. docs/arithmetic.md says what either rounds.
- GELU (gemma2, gemma3) is looked up in a table of float16, which leaves an NMSE of 1e-7 in ffn_swigl.
- There is no ffn_silu: activation and product are one operation.
- YaRN's bounds are rounded to whole pairs in every family, which gpt-oss does not do: `diff` finds it in q_post_rope and k_post_rope.
- All positions go through one pass, and logits are computed for all of them, since llama.cpp drops the other positions in the last layer.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph import Trace
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.trace.destination import check_trace_place

Array = npt.NDArray[Any]
#: (layer, stage), or a part of a stage: q, k, v and their biased sums.
Place = tuple["int | None", str]


@dataclass(frozen=True)
class Node:
    """One node of llama.cpp's graph. ``sources`` are the names of what it reads, model tensors among them.

    ``values`` has its dimensions, the slowest first. A softmax has the ``scale`` that it multiplies the scores with, and ``mask``,
    which it adds to them: [positions, positions attended to], 0 where nothing is masked; both padded.
    """

    operation: str
    name: str
    sources: tuple[str, ...]
    values: Array
    scale: float = 1.0
    mask: Array | None = None


# -- which node is which stage ------------------------------------------------------------------------------------------

#: By the model tensor that a product reads. Norms are products with their weights.
_BY_TENSOR = {
    "attn_norm": "attn_norm", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_qkv": "qkv_matmul", "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm", "attn_output": "attn_out", "post_attention_norm": "attn_post_norm", "ffn_norm": "ffn_norm",
    "ffn_gate": "ffn_gate", "ffn_up": "ffn_up", "ffn_down": "ffn_out", "post_ffw_norm": "ffn_post_norm",
    "ffn_gate_shexp": "ffn_gate", "ffn_up_shexp": "ffn_up", "ffn_down_shexp": "ffn_out", "ffn_gate_inp": "moe_router_logits",
    "attn_q_a": "q_a", "attn_q_a_norm": "q_a_norm", "attn_q_b": "q_matmul", "attn_kv_a_mqa": "kv_a", "attn_kv_a_norm": "kv_a_norm",
    "attn_kv_b": "kv_b", "attn_k_b": "q_absorbed",
    "ffn_gate_exps": "moe_expert_gate", "ffn_up_exps": "moe_expert_up", "ffn_down_exps": "moe_expert_out",
}  # fmt: skip
#: By the bias that a sum reads; the sum is a stage of its own in q, k and v alone.
_BY_BIAS = {name: _BY_TENSOR[name] + ("_bias" if len(_BY_TENSOR[name]) == 1 else "") for name in (
    "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps",
    "ffn_down_exps",
)} | {"exp_probs_b": "moe_router_scores"}  # fmt: skip
#: By operation and name, where no model tensor tells. A later node of the same stage takes the place of an earlier one.
_BY_NAME = {
    ("ROPE", "Qcur"): "q_post_rope", ("ROPE", "Kcur"): "k_post_rope", ("MUL_MAT", "kq"): "attn_scores",
    ("SCALE", "kq_scaled_2"): "attn_scores", ("SOFT_MAX", "kq_soft_max"): "attn_softmax", ("CONT", "kqv_out"): "attention",
    ("RESHAPE", "kqv_out"): "attention", ("MUL_MAT", "kqv"): "attn_latent", ("ROPE", "q_pe"): "q_pe", ("ROPE", "k_pe"): "k_pe",
    ("RMS_NORM", "Qcur_normed"): "q_norm", ("RMS_NORM", "Kcur_normed"): "k_norm",
    ("ADD", "ffn_inp"): "post_attn_residual", ("ADD", "sa_out"): "post_attn_residual", ("SWIGLU", "ffn_swiglu"): "ffn_swigl",
    ("GEGLU", "ffn_geglu"): "ffn_swigl", ("SQR", "ffn_sqr(relu)"): "ffn_swigl", ("MUL", "ffn_moe_gate_scaled"): "moe_expert_gate",
    ("MUL", "ffn_moe_up_scaled"): "moe_expert_up", ("MUL", "ffn_moe_down_scaled"): "moe_expert_out",
    ("SWIGLU", "ffn_moe_swiglu"): "moe_expert_swigl", ("SWIGLU_OAI", "ffn_moe_swiglu_oai"): "moe_expert_swigl",
    ("VIEW", "ffn_moe_topk"): "moe_router_indices", ("GET_ROWS", "ffn_moe_weights"): "moe_router",
    ("RESHAPE", "ffn_moe_weights_softmax"): "moe_router", ("DIV", "ffn_moe_weights_norm"): "moe_router",
    ("SCALE", "ffn_moe_weights_scaled"): "moe_router", ("ADD", "ffn_moe_out"): "moe_ffn_out",
    ("ADD", "ffn_moe_out_merged"): "moe_ffn_out", ("MUL", "ffn_moe_weighted"): "moe_expert_in", ("ADD", "l_out"): "post_ffn_residual",
}  # fmt: skip
#: Where a family scales embeddings: Gemma's and Granite's.
_SCALED_EMBEDDING = {("SCALE", "inp_scaled"), ("SCALE", "embd")}
_FLOATS = {"f32", "f16", "bf16"}
_OF_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias|scale)")
_NAMED = re.compile(r"([\w()]+)-(\d+)")


def find_place(operation: str, name: str, sources: Sequence[str]) -> Place | None:
    """The stage that a node is, or the part of one; None for the many that are none."""
    if (operation == "GET_ROWS" and sources[:1] == ("token_embd.weight",)) or (operation, name) in _SCALED_EMBEDDING:
        return (0, "embedding")
    if name == "result_output":
        return (None, "lm_head")
    if (operation == "MUL_MAT" and sources[0] in ("output.weight", "token_embd.weight")) or "output.scale" in sources:
        return (None, "lm_head_raw")
    if operation == "MUL" and "output_norm.weight" in sources:
        return (None, "final_norm")
    for source in sources[:2]:
        match = _OF_LAYER.fullmatch(source)
        if match is not None:
            by_bias = operation in ("ADD", "ADD_ID") and match[3] == "bias"
            table = _BY_BIAS if by_bias else _BY_TENSOR if operation in ("MUL", "MUL_MAT", "MUL_MAT_ID") else {}
            return (int(match[1]), table[match[2]]) if match[2] in table else None
    match = _NAMED.fullmatch(name)
    if match is None:
        return None
    if operation == "ADD" and match[1] == "ffn_out" and sources[0].startswith("ffn_moe_out"):  # with the shared expert
        return (int(match[2]), "moe_ffn_out")
    if match[1] == "ffn_moe_weighted" and sources[0].startswith("ffn_moe_down"):  # outputs times their weights
        return None
    stage = _BY_NAME.get((operation, match[1]))
    return None if stage is None else (int(match[2]), stage)


def assemble(nodes: Iterable[Node], positions: int, attended: int) -> dict[tuple[int | None, str], Array]:
    """The stages of one pass on ``positions`` tokens that attends to ``attended``, in the shapes of aprgraph's stage table."""
    found = _by_place(nodes)
    stages: dict[tuple[int | None, str], Array] = {}
    for layer, part in found:
        if (stage := _stage(found, layer, part, positions, attended)) is not None:
            name, values = stage
            stages[layer, name] = values
    for (layer, name), values in list(stages.items()):
        # phi3 and glm4 have the gate and the up projection in one matrix; arcee has no gate.
        if name == "ffn_up" and (layer, "ffn_gate") not in stages and values.shape[1] == 2 * stages[layer, "ffn_swigl"].shape[1]:
            stages[layer, "ffn_gate"], stages[layer, "ffn_up"] = np.split(values, 2, axis=1)
    return stages


def _by_place(nodes: Iterable[Node]) -> dict[Place, Node]:
    """The nodes that are stages, or parts of some."""
    found: dict[Place, Node] = {}
    for node in nodes:
        place = find_place(node.operation, node.name, node.sources)
        if place is None:
            continue
        if place[1] == "attn_post_norm" and (place[0], "post_attn_residual") in found:
            place = (place[0], "ffn_norm")  # what the tensor is in gpt-oss
        found[place] = node
    if (None, "lm_head") in found and found[None, "lm_head"].operation != "SCALE":
        found.pop((None, "lm_head_raw"), None)  # a part of the product: the weight's own scale came after it
    return found


def _stage(found: Mapping[Place, Node], layer: int | None, part: str, positions: int, attended: int) -> tuple[str, Array] | None:
    """The stage that a node of ``found`` gives, and its values; None for what goes into another one."""
    values = found[layer, part].values
    if part in ("q_absorbed", "attn_latent"):
        if (layer, "q_absorbed") not in found:
            return None  # attention itself, where it is not over a latent
        return part, np.moveaxis(values.reshape(-1, positions, values.shape[-1]), 0, 1).reshape(positions, -1)
    if part == "q_post_rope" and (layer, "k_pe") in found:  # of heads that are computed whole, the last elements
        heads, turned = values.reshape(positions, -1, values.shape[-1]), found[layer, "k_pe"].values.shape[-1]
        return "q_pe", heads[..., -turned:].reshape(positions, -1)
    if part in ("attn_scores", "attn_softmax"):
        softmax = found[layer, "attn_softmax"]
        assert softmax.mask is not None
        visible = (softmax.mask.reshape(-1, softmax.mask.shape[-1]) == 0)[:positions, :attended]
        # The scores are recorded before the scale; the cache has room for more positions than there are.
        weights = values.reshape(-1, positions, values.shape[-1])[:, :, :attended]
        return part, np.where(visible, weights * np.float32(softmax.scale) if part == "attn_scores" else weights, 0)
    if part.startswith("moe_expert_"):
        return part, values.reshape(positions, -1, values.shape[-1])
    if part.startswith("lm_head"):
        return part, values.reshape(-1, values.shape[-1])[-1]
    if part == "q" and (layer, "k") not in found:  # latent attention whose queries have no latent
        return "q_matmul", values.reshape(positions, -1)
    if part in ("q", "q_bias"):
        sides = [found[layer, part.replace("q", name, 1)].values.reshape(positions, -1) for name in "qkv"]
        return "qkv_matmul" if part == "q" else "qkv_bias", np.concatenate(sides, axis=1)
    return None if part in ("k", "v", "k_bias", "v_bias") else (part, values.reshape(positions, -1))


def describe_arithmetic(types: Iterable[str]) -> str:
    """What was computed in, by the types of the matrices, of the KV cache and of the activation, in the words of a trace's manifest."""
    types = set(types)
    if types - _FLOATS:
        return "q8-activations"
    return "bfloat16" if "bf16" in types else "float16" if "f16" in types else "float32"


# -- llama.cpp ----------------------------------------------------------------------------------------------------------

_DTYPES = {"f32": np.float32, "f16": np.float16, "i32": np.int32}
#: Whose traces these are.
_WRITER = "llama-cpp-python"
_KV_TYPES = {"f32": 0, "f16": 1}


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor`` of ggml.h."""

    _fields_ = (
        ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4), ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32), ("src", ctypes.c_void_p * 10), ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64), ("extra", ctypes.c_void_p),
    )  # fmt: skip


class Engine:
    """A model in llama.cpp whose passes are recorded.

    ``flash`` says whether attention is flash attention, ``gpu_layers`` how many layers are on a GPU. ``libraries`` is the
    folder of libllama and ggml's libraries, if not those that llama-cpp-python brings.
    """

    def __init__(
        self,
        path: Path,
        *,
        kv: str,
        threads: int,
        room: int,
        flash: bool = False,
        gpu_layers: int = 0,
        libraries: Path | None = None,
    ) -> None:
        llama_cpp, libraries = _import_llama_cpp(libraries)
        self._api = llama_cpp
        self._ggml = ctypes.CDLL(str(next(libraries.glob("libggml-base.*"))))
        for name in ("ggml_op_desc", "ggml_type_name"):
            getattr(self._ggml, name).restype = ctypes.c_char_p
        self._ggml.ggml_op_desc.argtypes = [ctypes.c_void_p]
        self._ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._ggml.ggml_backend_tensor_get.restype = None
        self.nodes: list[Node] = []
        #: The types of the matrices, of the KV cache and of GELU: what values were rounded to.
        self.types = {"f16" if flash else kv}
        self._error: BaseException | None = None
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, None)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            sys.exit(f"{path}: llama.cpp cannot load it")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        # Kept, because llama.cpp has only its address.
        self._callback = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(self._called_back)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = (room + 255) // 256 * 256
        context.n_threads = context.n_threads_batch = threads
        context.flash_attn_type = int(flash)
        context.type_k = context.type_v = _KV_TYPES[kv]
        context.swa_full = True
        context.cb_eval = self._callback
        self._context = llama_cpp.llama_init_from_model(self._model, context)
        if not self._context:
            sys.exit(f"{path}: llama.cpp cannot make a context of {context.n_ctx} positions")
        self._batch = llama_cpp.llama_batch_init(context.n_batch, 0, 1)

    def run(self, tokens: Sequence[int], start: int) -> list[Node]:
        """The nodes of a pass on ``tokens``, which stand at ``start`` and after it."""
        self.nodes = []
        self._batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            self._batch.token[index], self._batch.pos[index] = token, start + index
            self._batch.n_seq_id[index], self._batch.seq_id[index][0], self._batch.logits[index] = 1, 0, 1
        code = self._api.llama_decode(self._context, self._batch)
        if self._error is not None:
            raise self._error
        if code:
            sys.exit(f"llama_decode returned {code}")
        return self.nodes

    def _called_back(self, address: int, is_question: bool, _user_data: Any) -> bool:
        """Before a node: whether it is wanted. After it: take it; True goes on."""
        try:
            tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
            sources = [ctypes.cast(source, ctypes.POINTER(_Tensor)).contents for source in tensor.src if source]
            operation, name = self._ggml.ggml_op_desc(address).decode(), tensor.name.decode()
            names = tuple(source.name.decode() for source in sources)
            if find_place(operation, name, names) is None:
                return not is_question
            if is_question:
                return True
            if operation.startswith("MUL_MAT") and names[0].endswith(".weight"):
                self.types.add(self._type_name(sources[0]))
            if operation == "GEGLU":
                self.types.add("f16")  # it looks GELU up in a table
            scale, mask = 1.0, None
            if operation == "SOFT_MAX":
                scale = ctypes.c_float.from_buffer_copy(ctypes.c_int32(tensor.op_params[0])).value
                mask = self._read(tensor.src[1])
            self.nodes.append(Node(operation, name, names, self._read(address), scale, mask))
        except Exception as error:  # noqa: BLE001 -- through C no exception can pass; `run` raises it
            self._error = error
            return False
        return True

    def _type_name(self, tensor: _Tensor) -> str:
        return str(self._ggml.ggml_type_name(tensor.type).decode())

    def _read(self, address: int) -> Array:
        """A copy of a tensor, which may be a view with gaps, and lie on a GPU."""
        tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
        dtype = np.dtype(_DTYPES[self._type_name(tensor)])
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        size = sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True)) + dtype.itemsize
        raw = ctypes.create_string_buffer(size)
        self._ggml.ggml_backend_tensor_get(address, raw, 0, size)
        return np.ndarray(shape, dtype, raw, 0, strides).copy()

    def encode(self, prompt: str) -> list[int]:
        """The token ids of a prompt."""
        raw = prompt.encode()
        ids = (self._api.llama_token * (len(raw) + 16))()
        count = self._api.llama_tokenize(self._vocabulary, raw, len(raw), ids, len(ids), True, True)
        return list(ids[:count])

    def is_end(self, token: int) -> bool:
        """Whether a text ends with ``token``."""
        return bool(self._api.llama_vocab_is_eog(self._vocabulary, token))


@cache  # a backend that is loaded twice crashes
def _import_llama_cpp(libraries: Path | None) -> tuple[Any, Path]:
    """llama-cpp-python, which reads LLAMA_CPP_LIB_PATH when it is imported, and where its libraries are."""
    if libraries is not None:
        os.environ["LLAMA_CPP_LIB_PATH"] = str(libraries)
    import llama_cpp  # noqa: PLC0415 -- the rest of this file works without it

    if libraries is None:
        return llama_cpp, Path(llama_cpp.__file__).parent / "lib"
    # Backends that are libraries of their own, one for each level of CPU, are loaded by the one that they register with.
    ggml = ctypes.CDLL(str(next(libraries.glob("libggml.*"))), mode=ctypes.RTLD_GLOBAL)
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(str(libraries).encode())
    return llama_cpp, libraries


def trace(engine: Engine, model: Path, tokens: Sequence[int], directory: Path, max_tokens: int, *, force: bool = False) -> Trace:
    """Run ``tokens`` as step 0 and up to ``max_tokens`` - 1 chosen tokens as the steps after it, and write all of it."""
    import llama_cpp  # noqa: PLC0415

    tensors: dict[Any, Array] = {}
    generated: list[int] = []
    batch, start = list(tokens), 0
    for step in range(max(1, max_tokens)):
        stages = assemble(engine.run(batch, start), len(batch), start + len(batch))
        tensors |= {(layer, stage, step): values for (layer, stage), values in stages.items()}
        start += len(batch)
        if max_tokens:
            generated.append(int(stages[None, "lm_head"].argmax()))
            if engine.is_end(generated[-1]):
                break
            batch = [generated[-1]]
    return Trace.write(
        directory, tensors, tokens=tokens, generated=generated, target="llama.cpp",
        # The fingerprint says that these numbers are of this file, so that whatever is wrong with them is llama.cpp's.
        model={"name": model.name, "fingerprint": GGUFFile(model).fingerprint()},
        arithmetic=describe_arithmetic(engine.types), weights="float" if engine.types <= _FLOATS else "quantised",
        writer=f"{_WRITER} {llama_cpp.__version__}",
        notes=["ffn_silu is not recorded: llama.cpp computes act(gate) · up in one operation"], force=force,
    )  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a GGUF model in llama.cpp and write an aprgraph trace.")
    parser.add_argument("model", type=Path)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt")
    text.add_argument("--tokens", help="ids, separated by commas")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "-n", "--max-tokens", type=int, default=0, help="generate this many tokens, and record a step for each but the last"
    )
    parser.add_argument("--kv", choices=sorted(_KV_TYPES), default="f32", help="the type of the KV cache")
    parser.add_argument("--flash", choices=("on", "off"), default="off", help="flash attention")
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on a GPU")
    parser.add_argument("--libraries", type=Path, metavar="DIR", help="the folder of a libllama of your own, and of ggml's libraries")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--force", action="store_true", help="write also where something else is than an earlier trace of llama.cpp")
    given = parser.parse_args()
    check_trace_place(given.output, _WRITER, force=given.force)  # before anything is computed
    size = len(given.tokens.split(",")) if given.tokens else len(given.prompt.encode()) + 1
    engine = Engine(
        given.model, kv=given.kv, threads=given.threads, room=size + given.max_tokens, flash=given.flash == "on",
        gpu_layers=given.gpu_layers, libraries=given.libraries,
    )  # fmt: skip
    tokens = [int(token) for token in given.tokens.split(",")] if given.tokens else engine.encode(given.prompt)
    written = trace(engine, given.model, tokens, given.output, given.max_tokens, force=given.force)
    print(f"{given.output}: {len(written)} tensors")


if __name__ == "__main__":
    main()
