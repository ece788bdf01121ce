"""The textual form of a graph, in the manner of MLIR; it prints and parses back to an equal graph.

    graph @name {architecture = "llama", layers = 2} {
      %tokens = input : i32[n]
      %token_embd.weight = weight {dims = [512, 64], dtype = "q8_0", tensor = "token_embd.weight"} : q8_0[512, 64]
      %layer0.embedding = embed(%tokens, %token_embd.weight) {scale = 1.0} stage embedding layer 0 : f32[n, 64]
      return %layer0.embedding
    }

One node a line, so that a difference between two graphs is a difference between lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.ir import Attr, Dim, Graph, Node, TensorType
from aprgraph.graph.stage_declarations import make_stages_known

#: Far more than the text of any model's graph: 100,000 nodes have 15 MB.
MOST_GRAPH_BYTES = 256 << 20
_NAME = r"[A-Za-z0-9_.\-]{1,256}"
#: As many digits as fit into 64 bits; Python's int would take any number of them.
_NUMBER = r"[0-9]{1,18}"
_NODE = re.compile(
    rf"%(?P<name>{_NAME}) = (?P<op>[a-z_0-9]{{1,64}})(?:\((?P<operands>[^)]*)\))?(?: (?P<attrs>\{{.*\}}))?"
    rf"(?: stage (?P<stage>[a-z_]{{1,64}}))?(?: layer (?P<layer>{_NUMBER}))? : (?P<dtype>[a-z0-9_]+)\[(?P<dims>[^\]]*)\]"
)
_HEADER = re.compile(rf"graph @(?P<name>{_NAME})(?: (?P<attrs>\{{.*\}}))? \{{")
_ATTR = re.compile(r"(?P<name>[a-z_0-9]{1,64}) = ")


def _print_attr(value: Attr) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _print_attrs(attrs: Mapping[str, Attr]) -> str:
    return "{" + ", ".join(f"{name} = {_print_attr(attrs[name])}" for name in sorted(attrs)) + "}"


def print_node(graph: Graph, node: Node) -> str:
    """One node on one line."""
    operands = graph.operand_names(node.name)
    parts = [f"%{node.name} = {node.op}"]
    if operands:
        parts[0] += "(" + ", ".join(f"%{name}" for name in operands) + ")"
    if node.attrs:
        parts.append(_print_attrs(node.attrs))
    if node.stage is not None:
        parts.append(f"stage {node.stage}")
    if node.layer is not None:
        parts.append(f"layer {node.layer}")
    return " ".join(parts) + f" : {node.type}"


def print_graph(graph: Graph) -> str:
    """The whole graph; equal graphs print equal text."""
    attrs = f" {_print_attrs(graph.attrs)}" if graph.attrs else ""
    lines = [f"graph @{graph.name}{attrs} {{"]
    lines += [f"  {print_node(graph, node)}" for node in graph]
    if graph.outputs:
        lines.append("  return " + ", ".join(f"%{name}" for name in graph.outputs))
    return "\n".join([*lines, "}", ""])


class _Parser:
    """Line by line: the form has one node a line."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.number = 0

    def error(self, message: str) -> GraphError:
        """The error that says ``message`` about the line at hand."""
        line = shown(self.lines[self.number].strip()) if self.number < len(self.lines) else "the end of the text"
        return GraphError(f"graph text, line {self.number + 1}: {message}: {line}")

    def attrs(self, text: str | None) -> dict[str, Attr]:
        """``{name = JSON, …}``."""
        result: dict[str, Attr] = {}
        if text is None:
            return result
        if text == "{}":
            return result
        decoder = json.JSONDecoder()
        position, end = 1, len(text) - 1
        while position <= end:
            match = _ATTR.match(text, position)
            if match is None:
                raise self.error("expected 'name = value' in the attributes")
            try:
                value, position = decoder.raw_decode(text, match.end())
            except (ValueError, RecursionError):  # not JSON, a number of thousands of digits, lists within lists
                raise self.error(f"attribute {match['name']} has no JSON value") from None
            if match["name"] in result:
                raise self.error(f"attribute {match['name']} appears twice")
            result[match["name"]] = self.attr(match["name"], value)
            if position == end:
                return result
            if not text.startswith(", ", position):
                raise self.error(f"expected ', ' or '}}' after the attribute {match['name']}")
            position += 2
        raise self.error("expected '}' after the attributes")

    def attr(self, name: str, value: object) -> Attr:
        """What JSON gave, as an attribute."""
        if isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list) and all(type(element) is int for element in value):
            return tuple(value)
        raise self.error(f"attribute {name} is neither text, number, truth value nor list of whole numbers")

    def names(self, text: str | None) -> list[str]:
        """``%a, %b``."""
        if not text:
            return []
        names = [part.strip() for part in text.split(",")]
        if any(re.fullmatch(f"%{_NAME}", name) is None for name in names):
            raise self.error("expected names such as %layer0.attn_norm")
        return [name[1:] for name in names]

    def dims(self, text: str) -> tuple[Dim, ...]:
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        if any(re.fullmatch(rf"{_NUMBER}|[a-z]", part) is None for part in parts):
            raise self.error("expected dims such as [n, 576]")
        return tuple(int(part) if part.isdigit() else part for part in parts)

    def parse(self) -> Graph:
        header = _HEADER.fullmatch(self.lines[0].strip()) if self.lines else None
        if header is None:
            raise self.error("expected 'graph @name {attributes} {'")
        graph = Graph(header["name"], self.attrs(header["attrs"]))
        for number, line in enumerate(map(str.strip, self.lines[1:]), start=1):
            self.number = number
            if line == "}":
                if any(rest.strip() for rest in self.lines[self.number + 1 :]):
                    self.number += 1
                    raise self.error("expected nothing after the closing brace")
                return graph
            if line.startswith("return "):
                if graph.outputs:
                    raise self.error("expected one 'return'")
                graph.outputs = tuple(self.names(line[len("return ") :]))
            elif line and not line.startswith("//"):
                self.node(graph, line)
        self.number = len(self.lines)
        raise self.error("expected '}'")

    def node(self, graph: Graph, line: str) -> None:
        match = _NODE.fullmatch(line)
        if match is None:
            raise self.error("expected '%name = op(%operands) {attributes} stage S layer N : dtype[dims]'")
        layer = int(match["layer"]) if match["layer"] else None
        result = TensorType(match["dtype"], self.dims(match["dims"]))
        try:
            graph.add(
                Node(match["name"], match["op"], result, self.attrs(match["attrs"]), match["stage"], layer),
                self.names(match["operands"]),
            )
        except GraphError as error:
            raise self.error(str(error)) from None


def parse_graph(text: str) -> Graph:
    """Parse what ``print_graph`` prints; lines that begin with // are comments. Raises GraphError with the line.

    The stages that the graph declares as its own become known. The result is not verified: call ``verify`` before using
    it.
    """
    graph = _Parser(text).parse()
    make_stages_known(graph.attrs)
    return graph


def print_request(op: str, operands: Sequence[TensorType | str], attrs: Mapping[str, Attr], result: TensorType) -> str:
    """An op at given types: ``rms_norm(f32[n, 8], f32[8], eps) {groups = 1} : f32[n, 8]``, a name for any number."""
    printed = f"{op}({', '.join(map(str, operands))})"
    return f"{printed} {_print_attrs(attrs)} : {result}" if attrs else f"{printed} : {result}"
