"""`aprgraph models`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.tables import format_table

if TYPE_CHECKING:
    from aprgraph.graph.block_formats import BlockFormat
    from aprgraph.graph.families import Family
    from aprgraph.graph.model_keys import ModelKey

_FAMILY_COLUMNS = ("family", "models", "what sets it apart")
_KEY_COLUMNS = ("key", "what it says", "shapes nodes of the ops", "changes nothing as", "what llama.cpp does otherwise")
_FORMAT_COLUMNS = ("format", "elements", "bytes", "bits each", "value of an element", "fields of a block")


def models(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page for the documentation.")] = False,
) -> None:
    """List the model families and the block formats that are supported.

    Example: aprgraph models
    """
    from aprgraph.graph.block_formats import BLOCK_FORMATS  # noqa: PLC0415
    from aprgraph.graph.families import FAMILIES  # noqa: PLC0415

    families = [(family.architecture, family.summary, ", ".join(_traits(family))) for family in FAMILIES.values()]
    formats = [_row(fmt) for fmt in BLOCK_FORMATS.values()]
    if markdown:
        from aprgraph.graph.model_keys import MODEL_KEYS  # noqa: PLC0415

        typer.echo(_page(families, [_key_row(key) for key in MODEL_KEYS.values() if key.ops], formats), nl=False)
        return
    typer.echo(format_table(_FAMILY_COLUMNS, families))
    typer.echo()
    typer.echo(format_table(_FORMAT_COLUMNS, formats, right=(1, 2, 3)))
    typer.echo(f"\n{_REST}")


_REST = "Other formats that the gguf package can dequantise (IQ1, IQ2, IQ3, TQ, NVFP4) are decoded by it in memory when a weight is bound."


def _traits(family: Family) -> list[str]:
    """What the declaration of a family says, in words."""
    pairs = {"interleaved": "RoPE of neighbours", "halves": "RoPE of halves"}
    said = [
        (True, pairs[family.rope_pairing]),
        (family.rope_base != 10000.0, f"RoPE base {family.rope_base:,.0f} where the file has none"),
        (family.qkv_bias, "biases of q, k, v"),
        (family.qk_norm, "norms of q and k"),
        (family.post_norms, "norms after attention and FFN"),
        (family.scaled_embedding, "scaled embeddings"),
        (family.activation != "silu", family.activation.upper()),
        (family.fused_gate_up, "gate and up in one tensor"),
    ]
    if family.window is not None:
        every = "" if family.window.period == 0 else f" but for every {family.window.period}th layer"
        own = "" if family.window.rope_base is None else f", with a RoPE base of {family.window.rope_base:,.0f}"
        said.append((True, f"sliding window{every}{own}"))
    if family.experts is not None:
        said += [
            (True, "experts" + (" in some models" if family.experts.optional else "")),
            (not family.experts.normalise, "weights of experts not normalised"),
            (family.experts.shared, "a shared expert"),
        ]
    return [text for there, text in said if there]


def _row(fmt: BlockFormat) -> tuple[str, ...]:
    fields = ", ".join(f"{field.name} {field.dtype}" + (f" x {field.count}" if field.count > 1 else "") for field in fmt.fields)
    bits = 8 * fmt.block_bytes / fmt.elements
    return (fmt.name, str(fmt.elements), str(fmt.block_bytes), f"{bits:.4g}", fmt.summary, fields)


def _key_row(key: ModelKey) -> tuple[str, ...]:
    neutral = ", ".join(str(value).lower() for value in key.neutral)
    other = key.llama_cpp + (f" ({', '.join(key.llama_cpp_in)})" if key.llama_cpp_in else "")
    return (key.name, key.what, ", ".join(key.ops), neutral or "-", other or "-")


def _page(families: Sequence[Sequence[str]], keys: Sequence[Sequence[str]], formats: Sequence[Sequence[str]]) -> str:
    def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    return (
        "# Model families and block formats\n\n"
        "Made by `aprgraph models --markdown` from the declarations in `graph/families`, `graph/model_keys.py` and\n"
        "`graph/block_formats.py`. What becomes of a file's keys and tensors is in [loading.md](loading.md).\n\n"
        "## Families (`general.architecture`)\n\n"
        f"{table(_FAMILY_COLUMNS, families)}\n\n"
        "RoPE scaling: none, linear, YaRN, Llama 3.1's factors (a tensor), LongRoPE's two sets of factors.\n\n"
        "## Metadata keys\n\n"
        "Those that shape the graph's nodes, where their family reads them; without the architecture in front (`rope.freq_base` is\n"
        "`llama.rope.freq_base`). `graph/model_keys.py` has the others too.\n\n"
        f"{table(_KEY_COLUMNS, keys)}\n\n"
        "## Block formats\n\n"
        f"{table(_FORMAT_COLUMNS, formats)}\n\n{_REST}\n"
    )
