"""`aprgraph compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aprgraph.cli.notices import print_notice, print_notices
from aprgraph.cli.options import Families, Ignore, Json, Override
from aprgraph.cli.progress import spinner
from aprgraph.cli.verbosity import Quiet, Verbose
from aprgraph.cli.write_errors import written_by


def compile_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A GGUF file, an .apr file, or a checkpoint.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="llvm (this machine's CPU), cuda (NVIDIA GPUs) or reference (float64 NumPy: slow, exact).")
    ] = "llvm",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where to put the artifact [<stem>.<target>.aprg here, or <stem>.<target>.<arithmetic>.aprg].",
        ),
    ] = None,
    cpu: Annotated[
        str | None,
        typer.Option("--cpu", help="x86-64-v2, -v3, -v4, -v4-vnni, aarch64, aarch64-dotprod, for another machine [this one's]."),
    ] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option("--arch", metavar="sm_XY", help="With cuda: a GPU architecture to compile for [sm_80, sm_90, PTX]. Repeatable."),
    ] = None,
    arithmetic: Annotated[
        str,
        typer.Option(
            "--arithmetic",
            metavar="NAME[,cache=f16|f32][,flash=on|off]",
            help="Kernels that round as an engine does: ggml-avx2 and others (docs/arithmetic.md).",
        ),
    ] = "plain",
    override_kv: Override = None,
    ignore: Ignore = None,
    json: Json = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Compile a model's kernels into an artifact directory.

    The artifact holds machine code and the graph, no weights: those stay in the model file. Every tap plan uses the same
    kernels, so choosing taps later cannot change a number. Compiling for CUDA needs no GPU.

    \b
    Example:
      aprgraph compile SmolLM2.gguf && aprgraph run --taps all --layers all
      aprgraph compile --target cuda --arch sm_80 --arch sm_89 SmolLM2.gguf
      aprgraph compile --arithmetic ggml-avx2 SmolLM2.gguf
    """
    from aprgraph.api import load  # noqa: PLC0415
    from aprgraph.graph.arithmetics import PLAIN  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415

    loaded = load(model, parse_overrides(override_kv or []), ignore or [])
    print_notices(loaded.model.notices)
    with written_by("-o"), spinner(f"compiling {model.name} for {target}"):
        artifact = loaded.compile(target, output, cpu, arch or (), arithmetic=arithmetic, on_notice=print_notice, progress=False).artifact
    if json:
        import json as json_module  # noqa: PLC0415

        document = {
            "artifact": str(artifact.directory),
            "identity": artifact.identity,
            "target": artifact.target,
            "cpu": artifact.cpu,
            **({"arithmetic": artifact.arithmetic} if artifact.arithmetic != PLAIN else {}),
            **({"architectures": artifact.architectures} if artifact.device is not None else {}),
            "kernels": dict(artifact.kernels),
        }
        typer.echo(json_module.dumps(document, indent=1))
        return
    kernels = f", {len(artifact.kernels)} kernels" if artifact.kernels else ""
    code = f" {', '.join(artifact.architectures)}" if artifact.architectures else ""
    rounding = f", {artifact.arithmetic}" if artifact.arithmetic != PLAIN else ""
    typer.echo(f"{artifact.directory}/ ({artifact.target_name}{code}{kernels}{rounding})")
