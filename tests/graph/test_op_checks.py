"""What each op accepts and rejects, and the message: operands, attributes, result."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import pytest

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Attr, Node, TensorType
from aprgraph.graph.ops import OPS


def types(text: str) -> list[TensorType]:
    """``"f32[n,4] q8_0[8,32]"`` as types."""
    result = []
    for word in text.split():
        dtype, _, dims = word.rstrip("]").partition("[")
        result.append(TensorType(dtype, tuple(int(dim) if dim.isdigit() else dim for dim in dims.split(",") if dim)))
    return result


GOOD: dict[str, tuple[str, Mapping[str, Attr], str]] = {
    "input": ("", {}, "i32[n]"),
    "weight": ("", {"tensor": "w", "dtype": "q8_0", "dims": (4, 64)}, "q8_0[4,64]"),
    "recorded": ("", {"type": "f32[4, n, t]"}, "f32[4,n,t]"),
    "received": ("", {"type": "f32[4, n, t]"}, "f32[4,n,t]"),
    "embed": ("i32[n] q4_k[9,256]", {"scale": 1.0}, "f32[n,256]"),
    "columns": ("f32[n,8]", {"start": 2, "stop": 8}, "f32[n,6]"),
    "last_row": ("f32[n,8]", {}, "f32[1,8]"),
    "first_row": ("f32[n,8]", {}, "f32[1,8]"),
    "mean_rows": ("f32[n,8]", {}, "f32[1,8]"),
    "linear": ("f32[n,64] q8_0[4,64] f16[2,64]", {}, "f32[n,6]"),
    "bias_add": ("f32[n,6] f32[4] f32[2]", {}, "f32[n,6]"),
    "row_add": ("f32[n,64] q8_0[2,64]", {"row": 1}, "f32[n,64]"),
    "rms_norm": ("f32[n,8] f32[4]", {"eps": 1e-5, "groups": 2}, "f32[n,8]"),
    "layer_norm": ("f32[n,8] f32[2,4] f16[2,4]", {"eps": 1e-5, "groups": 2}, "f32[n,8]"),
    "rope_angles": (
        "i32[n] f32[2]",
        {"base": 1e4, "dims": 4, "scale": 1.0, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0},
        "f32[n,4]",
    ),
    "rope": ("f32[n,24] f32[n,4]", {"heads": 2, "head_size": 6, "start": 12, "pairing": "halves"}, "f32[n,12]"),
    "query_temperature": ("i32[n]", {"strength": 0.1, "span": 16384}, "f32[n,1]"),
    "context_choice": ("f32[2] f32[2]", {"limit": 9}, "f32[2]"),
    "join_heads": ("f32[n,6] f32[n,4]", {"heads": 2}, "f32[n,10]"),
    "head_linear": ("f32[n,128] q8_0[2,5,64]", {}, "f32[n,10]"),
    "cache": ("f32[n,6]", {}, "f32[t,6]"),
    "attn_scores": ("f32[n,12] f32[t,6]", {"heads": 4, "kv_heads": 2, "scale": 0.5, "window": 3}, "f32[4,n,t]"),
    "attn_softmax": ("f32[4,n,t] f16[4]", {"window": 0}, "f32[4,n,t]"),
    "attn_mix": ("f32[4,n,t] f32[t,6]", {"kv_heads": 2, "window": 0}, "f32[n,12]"),
    "attention": ("f32[n,12] f32[t,6] f32[t,10] f32[4]", {"heads": 4, "kv_heads": 2, "scale": 0.5, "window": 0}, "f32[n,20]"),
    "add": ("f32[n,8] f32[n,8]", {}, "f32[n,8]"),
    "mul": ("f32[n,8] f32[n,8]", {}, "f32[n,8]"),
    "silu": ("f32[n,8]", {}, "f32[n,8]"),
    "gelu": ("f32[n,2,8]", {}, "f32[n,2,8]"),
    "gelu_erf": ("f32[n,2,8]", {}, "f32[n,2,8]"),
    "sigmoid": ("f32[n,1]", {}, "f32[n,1]"),
    "scale_rows": ("f32[n,8] f32[n,1]", {}, "f32[n,8]"),
    "scale": ("f32[n,8]", {"factor": 0.5}, "f32[n,8]"),
    "soft_cap": ("f32[n,8]", {"cap": 30.0}, "f32[n,8]"),
    "clamp": ("f32[n,8]", {"bound": 8.0}, "f32[n,8]"),
    "clamped_swiglu": ("f32[n,2,8] f32[n,2,8]", {"limit": 7.0, "alpha": 1.702}, "f32[n,2,8]"),
    "relu_squared": ("f32[n,8]", {}, "f32[n,8]"),
    "tanh": ("f32[n,8]", {}, "f32[n,8]"),
    "xielu": ("f32[n,8]", {"alpha_p": 0.8, "alpha_n": 0.9, "beta": 0.5, "eps": -1e-6}, "f32[n,8]"),
    "softplus": ("f32[n,8]", {}, "f32[n,8]"),
    "scale_columns": ("f32[n,8] f16[8]", {}, "f32[n,8]"),
    "l2_norm": ("f32[n,8]", {"eps": 1e-6, "groups": 2}, "f32[n,8]"),
    "altup_predict": ("f32[n,12] f32[n,9]", {}, "f32[n,12]"),
    "altup_correct": ("f32[n,12] f32[n,4] f32[n,3]", {"active": 2}, "f32[n,12]"),
    "stream_add": ("f32[n,12] f32[n,4]", {"streams": 3, "start": 1}, "f32[n,12]"),
    "stream_mean": ("f32[n,12]", {"streams": 3}, "f32[n,4]"),
    "match_rms": ("f32[n,8] f32[n,4]", {"least": 1e-5}, "f32[n,8]"),
    "gaussian_top_k": ("f32[n,8]", {"factor": 1.5}, "f32[n,8]"),
    "short_conv": ("f32[n,8] f32[8,4] f16[8]", {}, "f32[n,8]"),
    "delta_rule": ("f32[n,8] f32[n,8] f32[n,12] f32[n,4] f32[n,4]", {"key_heads": 2, "scale": 0.5}, "f32[n,12]"),
    "ssm_scan": ("f32[n,4] f32[n,8] f32[n,8] f32[n,4] f32[n,4] f16[4] bf16[4,4]", {"groups": 2}, "f32[n,4]"),
    "softmax": ("f32[n,8]", {}, "f32[n,8]"),
    "top_k": ("f32[n,8]", {"k": 3}, "f32[n,3]"),
    "router_weights": ("f32[n,8] f32[n,3]", {"normalise": False, "scale": 1.0}, "f32[n,3]"),
    "sparse_mixer": ("f32[n,8] f32[n,2]", {"tolerance": 0.02}, "f32[n,2]"),
    "expert_linear": ("f32[n,64] f32[n,3] q8_0[8,5,64]", {}, "f32[n,3,5]"),
    "expert_bias_add": ("f32[n,3,5] f32[n,3] f16[8,5]", {}, "f32[n,3,5]"),
    "expert_inputs": ("f32[n,5] f32[n,3]", {}, "f32[n,3,5]"),
    "expert_scale": ("f32[n,3] f32[n,3] f16[8]", {}, "f32[n,3]"),
    "expert_sum": ("f32[n,3,5] f32[n,3]", {}, "f32[n,5]"),
    "tap": ("f32[4,n,t]", {}, "f32[4,n,t]"),
    "round": ("f32[n,3,512]", {"scheme": "q8_k"}, "f32[n,3,512]"),
    "round_sum_errors": ("f32[n,3,64]", {"scheme": "q8_1_avx"}, "f32[n,3,2]"),
    "rounded_linear": ("f32[n,256] q4_k[7,256] q6_k[2,256]", {"scheme": "q8_k"}, "f32[n,9]"),
    "rope_angles_chained": (
        "i32[n] f32[2]",
        {"base": 1e4, "dims": 4, "scale": 1.0, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0},
        "f32[n,4]",
    ),
    "gelu_half": ("f32[n,2,8]", {}, "f32[n,2,8]"),
    "flash_attention": (
        "f32[n,12] f32[t,6] f32[t,10] f32[4]",
        {"heads": 4, "kv_heads": 2, "scale": 0.5, "window": 0, "lanes": 8},
        "f32[n,20]",
    ),
}


def check(op: str, operands: str, attrs: Mapping[str, Attr], result: str) -> None:
    OPS[op].check(Node("x", op, types(result)[0], attrs), types(operands))


@pytest.mark.parametrize("op", OPS)
def test_a_good_use_passes(op: str) -> None:
    check(op, *GOOD[op])


@pytest.mark.parametrize("op", OPS)
def test_a_result_of_another_type_is_rejected_with_what_the_op_gives(op: str) -> None:
    operands, attrs, _ = GOOD[op]
    with pytest.raises(GraphError, match=rf"{op} gives .*, but the node says f32\[77\]"):
        check(op, operands, attrs, "f32[77]")


@pytest.mark.parametrize("op", OPS)
def test_operands_too_many_or_too_few_are_rejected_with_their_names(op: str) -> None:
    operands, attrs, result = GOOD[op]
    words = operands.split()
    least = sum(not name.endswith("?") for name in OPS[op].operands)
    wrong = [" ".join(words[: least - 1])] if least else []
    if not OPS[op].operands or not OPS[op].operands[-1].endswith("*"):
        wrong.append(" ".join([*words, "f32[1]"]))
    assert wrong
    for text in wrong:
        message = f"{op} has {len(text.split())} operands, expected ({', '.join(OPS[op].operands) or 'none'})"
        with pytest.raises(GraphError, match=re.escape(message)):
            check(op, text, attrs, result)


@pytest.mark.parametrize("op", OPS)
def test_attributes_missing_added_or_of_another_type_are_rejected(op: str) -> None:
    operands, attrs, result = GOOD[op]
    with pytest.raises(GraphError, match=f"{op} has the attributes .*'bogus'.*, expected {', '.join(sorted(attrs)) or 'none'}"):
        check(op, operands, {**attrs, "bogus": 1}, result)
    for name, value in attrs.items():
        with pytest.raises(GraphError, match=f"{op} has the attributes .*, expected {', '.join(sorted(attrs))}"):
            check(op, operands, {key: attrs[key] for key in attrs if key != name}, result)
        wrong = 1 if isinstance(value, bool) else True
        with pytest.raises(GraphError, match=f"{op}: attribute {name} is {wrong}, expected {type(value).__name__}"):
            check(op, operands, {**attrs, name: wrong}, result)
        if isinstance(value, float):
            for bad in (math.nan, math.inf):
                with pytest.raises(GraphError, match=f"{op}: attribute {name} is {bad}, expected a finite number"):
                    check(op, operands, {**attrs, name: bad}, result)


@pytest.mark.parametrize(
    ("op", "operands", "changed", "message"),
    [
        ("weight", "", {"dims": ()}, r"dims is \(\), expected a list of whole numbers above 0"),
        ("weight", "", {"dims": (0, 64)}, r"dims is \(0, 64\), expected a list of whole numbers above 0"),
        ("weight", "", {"dims": (True, 64)}, "expected a list of whole numbers above 0"),
        ("weight", "", {"dims": ("n", 64)}, "expected a list of whole numbers above 0"),
        ("weight", "", {"dtype": "q9_0"}, "dtype is 'q9_0', expected one of f32, f16, bf16, q8_0"),
        ("weight", "", {"dtype": "Q8_0"}, "dtype is 'Q8_0', expected one of f32"),
        ("weight", "", {"dims": (4, 40)}, "rows have 40 elements, expected a multiple of 32 for q8_0"),
        ("weight", "", {"part": "scales"}, "part is 'scales', expected minima"),
        ("weight", "", {"part": "minima"}, "blocks of q8_0 have no minima"),
        ("round", "f32[n,512]", {"scheme": "q9"}, "scheme is 'q9', expected one of f16, bf16, q8_0_avx"),
        ("round", "f32[n,300]", {}, "rows of x have 300 elements, expected a multiple of 256"),
        ("round", "i32[n]", {}, r"x is i32\[n\], expected f32 of two dims or more"),
        ("round_sum_errors", "f32[n,64]", {"scheme": "q8_0_avx"}, "scheme is 'q8_0_avx', which has no sums of blocks"),
        ("rounded_linear", "f32[n,256] q4_k[7,256]", {"scheme": "q9"}, "scheme is 'q9', expected one of f16, bf16, q8_0_avx"),
        (
            "rounded_linear",
            "f32[n,256] q4_k[7,256]",
            {"scheme": "q8_0_avx"},
            r"a weight is q4_k\[7, 256\], and x is rounded by q8_0_avx, expected one of",
        ),
        ("gelu_half", "i32[n]", {}, r"x is i32\[n\], expected f32"),
        ("embed", "f32[n] q4_k[9,256]", {}, r"tokens are f32\[n\], expected i32\[n\]"),
        ("embed", "i32[n] f32[9]", {}, r"the embedding table is f32\[9\], expected \[vocabulary, hidden\]"),
        ("altup_predict", "f32[n,12] f32[n,8]", {}, r"coefs are f32\[n, 8\], expected a number for each two streams: a square of columns"),
        ("altup_predict", "f32[n,11] f32[n,9]", {}, r"x is f32\[n, 11\], which has no 3 equal streams"),
        ("altup_predict", "f32[n,12] f32[t,9]", {}, r"coefs is f32\[t, 9\], but the first operand is f32\[n, 12\]: expected f32\[n, 9\]"),
        ("altup_correct", "f32[n,12] f32[n,5] f32[n,3]", {}, r"activated is f32\[n, 5\], .*: expected f32\[n, 4\]"),
        ("altup_correct", "f32[n,12] f32[n,4] f32[n,3]", {"active": 3}, r"active is 3, expected one of 3 streams"),
        ("stream_add", "f32[n,12] f32[n,12]", {}, r"y is f32\[n, 12\], .*: expected f32\[n, 4\]"),
        ("stream_add", "f32[n,12] f32[n,4]", {"start": 3}, r"start is 3, expected one of 3 streams"),
        ("stream_mean", "f32[n,12]", {"streams": 5}, r"x is f32\[n, 12\], which has no 5 equal streams"),
        ("match_rms", "f32[n,9] f32[n,4]", {}, r"x is f32\[n, 9\], expected streams of 4 columns, as like has"),
        ("gaussian_top_k", "f32[n,1]", {"sample": True}, r"x is f32\[n, 1\], expected more columns for the variance of a sample"),
        ("head_linear", "f32[n,128] q8_0[2,5,64]", {"shared": True}, r"but x is f32\[n, 128\]: expected 64 columns"),
        ("columns", "f32[n,7]", {}, r"columns 2\.\.8 do not lie in f32\[n, 7\]"),
        ("columns", "f32[n,8]", {"start": 8}, r"columns 8\.\.8 do not lie in"),
        ("columns", "f32[n,8]", {"start": -1}, r"columns -1\.\.8 do not lie in"),
        ("columns", "f32[n,16]", {"heads": 3}, r"the columns of f32\[n, 16\] do not divide into 3 heads"),
        ("columns", "f32[n,14]", {"heads": 2}, r"columns 2\.\.8 do not lie in f32\[n, 14\], which has 2 heads of 7 columns"),
        ("top_k", "f32[n,8]", {"groups": 3}, "8 experts do not divide into 3 groups"),
        ("top_k", "f32[n,8]", {"groups": 4, "used_groups": 5}, "used_groups is 5, expected 1 to 4"),
        ("top_k", "f32[n,8]", {"groups": 4, "used_groups": 1}, "k is 3, but 1 groups have 2 experts"),
        ("top_k", "f32[n,8]", {"groups": 2, "best_of_group": 3}, "best_of_group is 3, expected 1 or 2, of 4 experts"),
        ("join_heads", "f32[n,5] f32[n,4]", {}, r"x is f32\[n, 5\], whose columns do not divide into 2 heads"),
        ("join_heads", "f32[n,6] f32[n,3]", {}, r"y is f32\[n, 3\], whose columns do not divide into 2 heads"),
        ("join_heads", "f32[n,6] f32[t,4]", {}, r"x is f32\[n, 6\], but y is f32\[t, 4\]"),
        ("join_heads", "f32[n,6] f32[n,4]", {"heads": 0}, "do not divide into 0 heads"),
        (
            "head_linear",
            "f32[n,100] q8_0[2,5,64]",
            {},
            r"the heads' weight is q8_0\[2, 5, 64\], but x is f32\[n, 100\]: expected 128 columns",
        ),
        ("head_linear", "f32[n,64] q8_0[5,64]", {}, r"the heads' weight is q8_0\[5, 64\], expected \[heads, out, in\]"),
        ("columns", "f32[8,n]", {}, "columns of x is the symbol 'n', expected a number"),
        ("last_row", "f32[8]", {}, r"x is f32\[8\], expected f32 of 2 dims"),
        ("row_add", "f32[n,8] f32[2,7]", {"row": 0}, r"the table is f32\[2, 7\], but x is f32\[n, 8\]"),
        ("row_add", "f32[n,8] f32[2,8]", {"row": 2}, "row is 2, expected one of the 2 rows of the table"),
        ("mean_rows", "f32[n,2,8]", {}, r"x is f32\[n, 2, 8\], expected f32 of 2 dims"),
        (
            "attn_softmax",
            "f32[4,n,t]",
            {"window": 3, "symmetric": True},
            "symmetric is true, and so is causal: expected one of them",
        ),
        ("linear", "q8_0[4,64] q8_0[4,64]", {}, r"x is q8_0\[4, 64\], expected f32 of 2 dims"),
        ("linear", "f32[n,64] q8_0[4,32]", {}, r"a weight is q8_0\[4, 32\], but x has rows of 64"),
        ("linear", "f32[n,64] f32[1,2,64]", {}, r"a weight is f32\[1, 2, 64\], expected \[out, in\], or \[in\] for one row"),
        ("linear", "f32[n,64] f32[63]", {}, r"a weight is f32\[63\], but x has rows of 64"),
        ("linear", "f32[n,64] f32[n,64]", {}, "rows of a weight is the symbol 'n', expected a number"),
        ("bias_add", "f32[n,6] f32[4]", {}, r"the biases have 4 elements, but x is f32\[n, 6\]"),
        ("bias_add", "f32[n,6] f32[1,6]", {}, r"a bias is f32\[1, 6\], expected one dimension"),
        ("rms_norm", "f32[n,8] f32[8]", {}, r"the norm's weight is f32\[8\] for 2 groups, but x is f32\[n, 8\]"),
        ("rms_norm", "f32[n,8] f32[4,4]", {}, r"the norm's weight is f32\[4, 4\] for 2 groups, but x is f32\[n, 8\]"),
        ("ssm_scan", "f32[n,12] f32[n,7] f32[n,7] f32[n,4] f32[n,4] f32[4]", {}, "whose columns do not divide into 2 groups"),
        ("ssm_scan", "f32[n,12] f32[n,9] f32[n,9] f32[n,4] f32[n,4] f32[4]", {"groups": 3}, "4 heads of x do not divide among 3 groups"),
        ("ssm_scan", "f32[n,14] f32[n,8] f32[n,8] f32[n,4] f32[n,4] f32[4]", {}, "whose columns do not divide into 4 heads"),
        ("ssm_scan", "f32[n,12] f32[n,8] f32[n,4] f32[n,4] f32[n,4] f32[4]", {}, r"b is f32\[n, 8\], but c is f32\[n, 4\]"),
        ("ssm_scan", "f32[n,12] f32[n,8] f32[n,8] f32[n,4] f32[n,2] f32[4]", {}, "expected one for each head of x"),
        ("ssm_scan", "f32[n,12] f32[n,8] f32[n,8] f32[n,4] f32[n,4] f32[3]", {}, "expected one for each of 4 heads"),
        ("ssm_scan", "f32[n,12] f32[n,8] f32[n,8] f32[n,4] f32[n,4] q8_0[4]", {}, "expected f32, f16 or bf16"),
        ("ssm_scan", "f32[n,12] f32[n,8] f32[n,8] f32[n,4] f32[n,4] f32[4]", {"groups": 0}, "do not divide into 0 groups"),
        ("ssm_scan", "f32[n,12] f32[n,8] f32[n,8] f32[n,4] f32[n,4] f32[4] f32[4,4]", {}, "expected one column for each of 4 heads"),
        (
            "ssm_scan",
            "f32[n,4] f32[n,8] f32[n,8] f32[n,4] f32[n,4] f32[4] f32[4,8]",
            {},
            "expected one for each of 4 heads and 4 columns of b",
        ),
        ("ssm_scan", "f32[n,4] f32[n,8] f32[n,8] f32[n,4] f32[n,4] f32[4] q8_0[4,4]", {}, "the rates are .*, expected f32, f16 or bf16"),
        ("rms_norm", "f32[n,8] f32[4]", {"groups": 0}, "for 0 groups"),
        ("query_temperature", "f32[n,1]", {}, r"positions are f32\[n, 1\], expected i32\[n\]"),
        ("query_temperature", "i32[n]", {"span": 0}, "span is 0, expected a number of positions"),
        ("layer_norm", "f32[n,8] f32[3,4]", {}, r"the norm's weight is f32\[3, 4\] for 2 groups, but x is f32\[n, 8\]"),
        ("layer_norm", "f32[n,9]", {}, r"x is f32\[n, 9\], which has no 2 equal groups"),
        ("layer_norm", "f32[n,8] f32[1,2,4]", {}, r"the norm's weight is f32\[1, 2, 4\] for 2 groups"),
        ("layer_norm", "f32[n,8] f32[4] f32[8]", {}, r"the norm's bias is f32\[8\], but its weight is f32\[4\]"),
        ("rope_angles", "f32[n] f32[2]", {}, r"positions are f32\[n\], expected i32\[n\]"),
        ("rope_angles", "i32[n] f32[3]", {}, r"the frequency factors are f32\[3\], expected 2 elements"),
        ("rope_angles", "i32[n] q8_0[32]", {"dims": 64}, r"the frequency factors are q8_0\[32\], expected f32, f16 or bf16"),
        ("rope_angles", "i32[n]", {"dims": 3}, "dims is 3, expected an even number of at least 2"),
        ("rope_angles", "i32[n]", {"dims": 0}, "dims is 0, expected an even number of at least 2"),
        ("rope_angles", "i32[n]", {"base": 0.0}, "base is 0.0, expected a positive number"),
        (
            "rope_angles",
            "i32[n]",
            {"ramp_start": 2.0, "ramp_end": 2.0},
            "the ramp goes from 2.0 to 2.0, expected it to end after it starts",
        ),
        ("context_choice", "f32[2] f32[3]", {}, r"the short factors are f32\[2\], the long ones f32\[3\]; expected one type"),
        ("cache", "f32[t,6]", {}, r"x is f32\[t, 6\], expected f32\[n, columns\]"),
        ("rope", "f32[n,24] f32[m,4]", {}, r"x is f32\[n, 24\], but the angles are f32\[m, 4\]"),
        ("rope", "f32[n,24] f32[n,8]", {}, r"the angles are f32\[n, 8\], but heads have 6 elements"),
        ("rope", "f32[n,24] f32[n,3]", {}, r"the angles are f32\[n, 3\], expected an even number of columns"),
        ("rope", "f32[n,23] f32[n,4]", {}, r"2 heads of 6 from column 12 do not lie in f32\[n, 23\]"),
        ("rope", "f32[n,24] f32[n,4]", {"start": -1}, "from column -1 do not lie in"),
        ("rope", "f32[n,24] f32[n,4]", {"pairing": "thirds"}, "pairing is 'thirds', expected one of interleaved, halves"),
        ("attn_scores", "f32[n,13] f32[t,6]", {}, "q: 13 columns do not divide into 4 heads"),
        ("attn_scores", "f32[n,12] f32[t,8]", {}, "heads of q have 3 elements, heads of k 4"),
        ("attn_scores", "f32[n,12] f32[t,9]", {"kv_heads": 3}, "4 query heads do not divide among 3 KV heads"),
        ("attn_scores", "f32[n,12] f32[t,6]", {"kv_heads": 0}, "k: 6 columns do not divide into 0 heads"),
        ("attn_scores", "f32[n,12] f32[t,6]", {"window": -1}, "window is -1, expected a number of positions, or 0 for none"),
        ("attn_scores", "f32[n,12] f32[t,6]", {"chunked": True, "causal": False}, "attention is chunked and not causal"),
        ("query_temperature", "i32[n]", {"offset": -1}, "offset is -1, expected a number of positions"),
        ("rms_norm", "f32[n,9]", {}, r"x is f32\[n, 9\], which has no 2 equal groups"),
        ("expert_inputs", "f32[n,5] f32[m,3]", {}, r"x is f32\[n, 5\], but the weights are f32\[m, 3\]"),
        ("attn_softmax", "f32[4,n,t]", {"window": -2}, "window is -2, expected a number of positions, or 0 for none"),
        ("attn_scores", "f32[n,12] f32[t,6]", {"cap": -1.0}, "cap is -1.0, expected a number above 0, or 0 for none"),
        ("attn_softmax", "f32[4,n,t] f32[3]", {}, r"the sinks are f32\[3\], but the scores are f32\[4, n, t\]: expected one for each head"),
        ("attn_softmax", "f32[32,n,t] q8_0[32]", {}, r"the sinks are q8_0\[32\], expected f32, f16 or bf16"),
        ("attention", "f32[n,12] f32[t,6] f32[t,6] f32[2]", {}, r"the sinks are f32\[2\], but the scores are f32\[4, n, t\]"),
        ("attn_softmax", "f32[n,t]", {}, r"scores is f32\[n, t\], expected f32 of 3 dims"),
        ("attn_mix", "f32[4,n,t] f32[n,6]", {}, r"v is f32\[n, 6\], but the weights are f32\[4, n, t\]"),
        ("attn_mix", "f32[4,n,t] f32[t,6]", {"value_size": 4}, "value_size is 4, but heads of v have 3 elements"),
        ("attn_mix", "f32[4,n,t] f32[t,6]", {"value_size": -1}, "value_size is -1, but heads of v have 3 elements"),
        ("attn_mix", "f32[4,n,t] f32[t,6]", {"kv_heads": 3}, "4 query heads do not divide among 3 KV heads"),
        ("attn_mix", "f32[4,n,t] f32[t,6]", {"kv_heads": 0}, "v: 6 columns do not divide into 0 heads"),
        ("add", "f32[n,8] f32[n,9]", {}, r"operands differ: f32\[n, 8\], f32\[n, 9\]"),
        ("mul", "f32[n,8] i32[n]", {}, r"operands are f32\[n, 8\], i32\[n\], expected f32"),
        ("scale_rows", "f32[n,8] f32[n,8]", {}, r"the factors are f32\[n, 8\], but x is f32\[n, 8\]: expected one factor a row"),
        ("top_k", "f32[n,8]", {"k": 9}, r"k is 9, but the scores are f32\[n, 8\]"),
        ("top_k", "f32[n,8]", {"k": 0}, "k is 0, but the scores are"),
        ("sparse_mixer", "f32[n,8] f32[m,2]", {}, r"the scores are f32\[n, 8\], but the ids are f32\[m, 2\]"),
        ("router_weights", "f32[n,8] f32[m,3]", {}, r"the scores are f32\[n, 8\], but the ids are f32\[m, 3\]"),
        ("expert_linear", "f32[n,64] f32[n,3] q8_0[8,64]", {}, r"the experts' weight is q8_0\[8, 64\], expected \[experts, out, in\]"),
        ("expert_linear", "f32[n,32] f32[n,3] q8_0[8,5,64]", {}, r"the experts' weight is q8_0\[8, 5, 64\], but x is f32\[n, 32\]"),
        ("expert_linear", "f32[n,2,64] f32[n,3] q8_0[8,5,64]", {}, r"x is f32\[n, 2, 64\], but the ids are f32\[n, 3\]"),
        ("expert_linear", "f32[64] f32[n,3] q8_0[8,5,64]", {}, r"x is f32\[64\], expected f32 of 2 dims, or of 3"),
        ("expert_bias_add", "f32[n,3,5] f32[n,2] f32[8,5]", {}, r"x is f32\[n, 3, 5\], but the ids are f32\[n, 2\]"),
        ("expert_bias_add", "f32[n,3,5] f32[n,3] f32[8,4]", {}, r"the experts' bias is f32\[8, 4\], but x is .*: expected \[experts, 5\]"),
        ("expert_bias_add", "f32[n,3,5] f32[n,3] f32[5]", {}, r"the experts' bias is f32\[5\], but x is f32\[n, 3, 5\]"),
        ("expert_scale", "f32[n,3] f32[n,2] f32[8]", {}, r"x is f32\[n, 3\], but the ids are f32\[n, 2\]"),
        ("expert_scale", "f32[n,3] f32[n,3] q8_0[32]", {}, r"the experts' factors are q8_0\[32\], expected f32, f16 or bf16"),
        ("scale_columns", "f32[n,8] f32[2]", {}, r"the factors are f32\[2\], but x is .*: expected one for each column, or one for all"),
        ("columns", "f32[n,3,8]", {"heads": 2}, r"x is f32\[n, 3, 8\], whose rows have no heads"),
        ("rms_norm", "f32[n,7]", {}, r"x is f32\[n, 7\], which has no 2 equal groups"),
        ("expert_sum", "f32[n,3,5] f32[n,2]", {}, r"x is f32\[n, 3, 5\], but the weights are f32\[n, 2\]"),
        ("silu", "q8_0[2,32]", {}, r"operands are q8_0\[2, 32\], expected f32"),
    ],
)
def test_wrong_operands_are_rejected_with_what_was_expected(op: str, operands: str, changed: Mapping[str, Attr], message: str) -> None:
    _, attrs, result = GOOD[op]
    with pytest.raises(GraphError, match=message):
        check(op, operands, {**attrs, **changed}, result)
