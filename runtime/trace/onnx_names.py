"""The values of ONNX graphs by the modules that they come of.

torch.onnx calls them ``/model/layers.0/self_attn/q_proj/MatMul_output_0``, the builder of ONNX Runtime GenAI
``/model/layers.0/attn/q_proj/MatMul/output_0``: a scope, the op, and which of its outputs. A module has many ops, and few of them give what
the module does.
"""

from __future__ import annotations

import re

_VALUE = re.compile(r"/(?P<module>.+?)(?:/(?P<op>[A-Z]\w*?)(?:_(?P<number>\d+))?)?[_/]output_(?P<which>\d+)", re.ASCII)
_A_LAYER = re.compile(r"(?:layers|blocks|h)\.(?:\d+|\{\})$")
_NORM = re.compile(r"(?:norm|ln_\w+|norm\d|ln\d)$")
#: Of attention, by op: what its parts are called elsewhere.
_OF_ATTENTION = {"Softmax": "softmax", "GroupQueryAttention": "attention", "MultiHeadAttention": "attention"}
_ACTIVATIONS = ("Gelu", "FastGelu", "QuickGelu", "Relu", "Elu", "Tanh")
_PRODUCTS = ("MatMul", "Gemm", "MatMulNBits", "MatMulInteger", "MatMulBnb4")


def module_of(name: str) -> str | None:
    """``model.layers.0.self_attn.q_proj`` for an ONNX value ``name``, or what that is called elsewhere; None where it is some value within
    a module. Other names stay as they are.
    """
    match = _VALUE.fullmatch(name)
    if match is None:
        return name
    module, op, number, which = match["module"].replace("/", "."), match["op"], int(match["number"] or 0), int(match["which"])
    last = module.rsplit(".", 1)[-1]
    if which:  # the sum that a norm of ONNX Runtime reads
        return f"{module.removesuffix(last)}post_attn_residual" if (op, which, last) == (None, 3, "post_attention_layernorm") else None
    if op is None or op in ("Gather", *_PRODUCTS):
        return module
    if _A_LAYER.search(module):
        return {0: f"{module}.post_attn_residual", 1: f"{module}.post_ffn_residual"}.get(number) if op == "Add" else None
    if _NORM.search(last):
        return module if op.endswith("Normalization") or (op, number) == ("Mul", 1) else None
    if op == "Add" and last.endswith("_proj"):
        return f"{module}_bias" if last in ("q_proj", "k_proj", "v_proj", "qkv_proj") else module
    if op == "RotaryEmbedding":
        return f"{module}.{last[0]}_rope" if last[0] in "qk" else None
    if op in _OF_ATTENTION and "attn" in last:
        return f"{module}.{_OF_ATTENTION[op]}"
    if last.startswith("act") and (op in _ACTIVATIONS or (op, number) == ("Mul", 0)):
        return f"{module}.act_fn"
    return f"{module}.swiglu" if (last, op, number) == ("mlp", "Mul", 0) else None
