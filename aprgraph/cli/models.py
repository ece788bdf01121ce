"""`aprgraph models`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli import tables
from aprgraph.cli.options import Families
from aprgraph.cli.tables import format_table
from aprgraph.cli.verbosity import Quiet, Verbose

if TYPE_CHECKING:
    from aprgraph.graph.block_format import BlockFormat
    from aprgraph.graph.families import Family
    from aprgraph.graph.model_keys import ModelKey

_FAMILY_COLUMNS = ("family", "models", "described in", "what sets it apart", "stages of its own", "checked against")
_KEY_COLUMNS = ("key", "what it says", "shapes nodes of the ops", "changes nothing as", "what llama.cpp does otherwise")
#: So many layers have one of each kind.
_LAYERS = 3
_FORMAT_COLUMNS = ("format", "elements", "bytes", "bits each", "value of an element", "fields of a block")


def models(
    family: Annotated[
        str | None,
        typer.Argument(
            metavar="[FAMILY]", help="Say all of one: an architecture, a class of transformers, a model's name, or a model file."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page for the documentation.")] = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """List the model families and the block formats that are supported.

    \b
    Example:
      aprgraph models
      aprgraph models Mixtral
      aprgraph models Qwen3ForCausalLM
      aprgraph models model.gguf
    """
    from aprgraph.graph.block_formats import BLOCK_FORMATS  # noqa: PLC0415
    from aprgraph.graph.families import FAMILIES  # noqa: PLC0415
    from aprgraph.graph.families.registry import load_installed_families  # noqa: PLC0415

    if not markdown:  # docs/models.md is of the package alone
        load_installed_families()
    formats = [_row(fmt) for fmt in BLOCK_FORMATS.values()]
    if markdown:
        from aprgraph.graph.model_keys import MODEL_KEYS  # noqa: PLC0415

        families = [_family_row(family) for family in FAMILIES.values()]
        typer.echo(_page(families, [_key_row(key) for key in MODEL_KEYS.values() if key.ops], formats), nl=False)
        return
    if family is not None:
        typer.echo("\n\n".join(_facts(found) for found in _meant(family, list(FAMILIES.values()))))
        return
    typer.echo(format_table(_FAMILY_COLUMNS[:2], [(family.architecture, family.about()[0]) for family in FAMILIES.values()], fold=True))
    typer.echo("\n`aprgraph models FAMILY` says what sets one apart.\n")
    typer.echo(format_table(_FORMAT_COLUMNS[:-1], [row[:-1] for row in formats], right=(1, 2, 3), fold=True))
    width = tables.columns()
    typer.echo(f"\n{_REST if width is None else textwrap.fill(_REST, width)}")


_REST = (
    "Kernels also decode the FP8 (E4M3, E5M2) and the MXFP4 of checkpoints, whose scales are tensors of their own. Other formats that the "
    "gguf package can dequantise (IQ1, IQ2, IQ3, TQ, NVFP4) are decoded by it in memory when a weight is bound."
)


def _family_row(family: type[Family]) -> tuple[str, ...]:
    """A family by its docstring, and the stages of its own by its graph."""
    models, source, what = family.about()
    checked = vars(family).get("checked_against") or "-"
    return (family.architecture, models, source, what, ", ".join(_own_stages(family)) or "-", checked)


def _facts(family: type[Family]) -> str:
    """A family, a line for each thing that there is to say of it."""
    rows = [*zip(_FAMILY_COLUMNS, _family_row(family), strict=True), ("classes of transformers", ", ".join(family.own_hf_classes()) or "-")]
    return format_table(("", ""), rows, fold=True).partition("\n")[2].partition("\n")[2]


def _meant(word: str, families: Sequence[type[Family]]) -> list[type[Family]]:
    """The families that somebody means by ``word``: an architecture, a class of transformers, or a part of models' names.

    Of a model file it is its own. Raises AprgraphError where there is none, and for a file that is not supported.
    """
    from aprgraph.graph.errors import AprgraphError, shown  # noqa: PLC0415
    from aprgraph.graph.near_names import did_you_mean_one_of  # noqa: PLC0415

    found = [family for family in families if word == family.architecture or word in family.own_hf_classes()]
    if not found and _is_model(word):
        from aprgraph.graph.model import load_model  # noqa: PLC0415

        return [type(load_model(word).family)]
    found = found or [family for family in families if word.lower() in f"{family.architecture} {family.about()[0]}".lower()]
    if found:
        return found
    known = [name for family in families for name in (family.architecture, *family.own_hf_classes())]
    raise AprgraphError(
        f"no family, and no model of one, is called {shown(word)}{did_you_mean_one_of(word, known)}; `aprgraph models` lists them, and "
        "docs/families.md says how to bring one"
    )


def _is_model(word: str) -> bool:
    """Whether a model lies at a path of this name."""
    from aprgraph.graph.sources.path_kind import kind_of_path  # noqa: PLC0415

    kind = kind_of_path(Path(word))
    return kind is not None and kind.name == "model"


def _own_stages(family: type[Family]) -> list[str]:
    """The stages of a layer, and of the whole model, that the plainest decoder does not have.

    Of a family whose numbers no small model is known for, those that it declares.
    """
    from aprgraph.graph.families import FAMILIES  # noqa: PLC0415
    from aprgraph.graph.outline import numbers_to_give, small_outline  # noqa: PLC0415

    if numbers_to_give(family):
        return [stage.name for stage, _ in family.stages]
    plain, own = ([node.stage for node in small_outline(kind, block_count=_LAYERS).graph.staged()] for kind in (FAMILIES["llama"], family))
    return list(dict.fromkeys(stage for stage in own if stage is not None and stage not in plain))


def _row(fmt: BlockFormat) -> tuple[str, ...]:
    fields = ", ".join(f"{field.name} {field.dtype}" + (f" x {field.count}" if field.count > 1 else "") for field in fmt.fields)
    bits = 8 * fmt.block_bytes / fmt.elements
    return (fmt.name, str(fmt.elements), str(fmt.block_bytes), f"{bits:.4g}", fmt.summary, fields)


def _key_row(key: ModelKey) -> tuple[str, ...]:
    neutral = ", ".join(str(value).lower() for value in key.neutral)
    other = [key.llama_cpp + (f" ({', '.join(key.llama_cpp_in)})" if key.llama_cpp_in else "")] if key.llama_cpp else []
    other += [f"{sentence} ({family})" for family, (sentence, _) in key.llama_cpp_of.items()]
    return (key.name, key.what, ", ".join(key.ops), neutral or "-", "; ".join(other) or "-")


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
