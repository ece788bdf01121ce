"""Graphs for tests: toys as text, and random ones that every rule of the ops allows."""

from __future__ import annotations

from functools import cache
from textwrap import dedent

import numpy as np

from aprgraph.graph.families import FAMILIES
from aprgraph.graph.ir import Attr, Graph, Node
from aprgraph.graph.ops import OPS
from aprgraph.graph.outline import small_outline
from aprgraph.graph.stages import STAGES
from aprgraph.graph.text import parse_graph
from aprgraph.graph.verify import verify

#: Two layers of one norm and one residual each: small enough to read, with every kind of stage that a plan tells apart.
TOY = """
graph @toy {layers = 2} {
  %tokens = input : i32[n]
  %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
  %layer0.embedding = embed(%tokens, %table) {scale = 1.0} stage embedding layer 0 : f32[n, 4]
  %w = weight {dims = [4], dtype = "f32", tensor = "w"} : f32[4]
  %layer0.attn_norm = rms_norm(%layer0.embedding, %w) {eps = 0.5, groups = 1} stage attn_norm layer 0 : f32[n, 4]
  %layer0.post_ffn_residual = add(%layer0.embedding, %layer0.attn_norm) stage post_ffn_residual layer 0 : f32[n, 4]
  %layer1.attn_norm = rms_norm(%layer0.post_ffn_residual, %w) {eps = 0.5, groups = 1} stage attn_norm layer 1 : f32[n, 4]
  %layer1.post_ffn_residual = add(%layer0.post_ffn_residual, %layer1.attn_norm) stage post_ffn_residual layer 1 : f32[n, 4]
  %final_norm = rms_norm(%layer1.post_ffn_residual, %w) {eps = 0.5, groups = 1} stage final_norm : f32[n, 4]
  %last = last_row(%final_norm) : f32[1, 4]
  %lm_head = linear(%last, %table) stage lm_head : f32[1, 9]
  return %lm_head
}
"""


def graph_of(text: str) -> Graph:
    """Parse and verify an indented text."""
    graph = parse_graph(dedent(text).strip("\n"))
    verify(graph)
    return graph


def random_graph(seed: int, length: int = 25) -> Graph:
    """A valid graph of about ``length`` nodes with random ops, operands, attributes and stages."""
    generator = np.random.default_rng([7, seed])
    ratio = float(generator.standard_normal())
    graph = Graph(f"random.{seed}", {"seed": seed, "ratio": ratio, "odd": 'quo"te, } = [é\n', "flag": bool(seed % 2)})
    stages: list[tuple[str, int | None]] = []
    for stage in STAGES:
        layers = (0,) if stage.first_layer_only else (0, 1, 7) if stage.per_layer else (None,)
        stages += [(stage.name, layer) for layer in layers]
    stages = [stages[int(index)] for index in generator.permutation(len(stages))]

    def add(op: str, *operands: str, **attrs: Attr) -> str:
        name = f"{'layer.' * bool(generator.integers(2))}{op}-{len(graph)}"
        is_staged = stages and op not in ("weight", "input") and generator.random() < 0.4
        stage, layer = stages.pop() if is_staged else (None, None)
        result = OPS[op].infer([graph[operand].type for operand in operands], attrs)
        graph.add(Node(name, op, result, attrs, stage, layer), operands)
        return name

    def weight(*dims: int) -> str:
        return add("weight", tensor=f"blk.{len(graph)}", dtype=str(generator.choice(["f32", "f16", "bf16"])), dims=dims)

    def pick(width: int | None = None) -> str:
        """An activation, of ``width`` columns if that is given."""
        activations = [node for node in graph if node.type.dtype == "f32" and node.type.dims[0] == "n"]
        return str(generator.choice([node.name for node in activations if width in (None, node.type.dims[1])]))

    def columns(name: str) -> int:
        width = graph[name].type.dims[1]
        assert isinstance(width, int)
        return width

    tokens, positions = add("input"), add("input")
    add("embed", tokens, weight(9, 8), scale=float(generator.choice([1.0, -0.1, 1e-300, 1.7976931348623157e308])))
    while len(graph) < length:
        x = pick()
        width = columns(x)
        kind = int(generator.integers(7))
        if kind == 0:
            add(str(generator.choice(["add", "mul"])), x, pick(width))
        elif kind == 1:
            add("silu", x)
        elif kind == 2:
            add("linear", x, *(weight(int(generator.integers(1, 7)), width) for _ in range(generator.integers(1, 4))))
        elif kind == 3:
            add("rms_norm", x, weight(width), eps=float(generator.random()), groups=1)
        elif kind == 4:
            add("bias_add", x, weight(width))
        elif kind == 5:
            start = int(generator.integers(0, width))
            add("columns", x, start=start, stop=int(generator.integers(start + 1, width + 1)))
        else:
            angles = add(
                "rope_angles",
                positions,
                base=float(generator.uniform(1, 1e6)),
                dims=2,
                scale=1.0,
                ramp_start=-1.0,
                ramp_end=0.0,
                magnitude=1.0,
            )
            if width >= 2:
                pairing = str(generator.choice(["interleaved", "halves"]))
                add("rope", x, angles, heads=1, head_size=width, start=0, pairing=pairing)
    nodes = list(graph)
    graph.outputs = tuple(node.name for node in nodes[-int(generator.integers(1, 4)) :])
    verify(graph)
    return graph


@cache
def ops_of(family: str) -> frozenset[str]:
    """The ops of a small model of the family, by the architecture's name."""
    return frozenset(node.op for node in small_outline(FAMILIES[family]).graph)
