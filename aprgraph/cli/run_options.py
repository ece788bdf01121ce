"""The options of ``aprgraph run`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="[ARTIFACT|MODEL]",
        help="An artifact, or a model (run by its artifact beside it, or compiled into a cache first) [the artifact here].",
        show_default=False,
    ),
]
Taps = Annotated[
    str | None,
    typer.Option(
        "--taps",
        metavar="LIST|all|apr",
        help="Stages to save, separated by commas, also as patterns such as 'attn_*'; `aprgraph stages` lists them; apr are those that "
        "`apr trace` saves. "
        "Without it nothing is saved, and the next token is printed.",
    ),
]
Apr = Annotated[bool, typer.Option("--apr", help="As `apr trace` runs a model: --taps apr, and the prompt raw, without BOS.")]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        "-p",
        metavar="TEXT",
        help="The input, tokenized by the model's own tokenizer [What is 2+2?, with -n through the chat template].",
    ),
]
PromptFile = Annotated[Path | None, typer.Option("--prompt-file", "-f", metavar="FILE", help="The input from a file; - is standard input.")]
Chat = Annotated[bool, typer.Option("--chat", help="Put the input through the model's own chat template.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="With --chat: the system message.")]
Tokens = Annotated[str | None, typer.Option("--tokens", metavar="1,2,3,…", help="The input as token ids.")]
TokensFile = Annotated[
    Path | None,
    typer.Option("--tokens-file", metavar="FILE", help="Token ids from a file, apart by commas or blanks; - is standard input."),
]
MaxTokens = Annotated[
    int,
    typer.Option("--max-tokens", "-n", metavar="N", help="Generate up to N tokens, each the likeliest, and print the text as it comes."),
]
Steps = Annotated[
    str,
    typer.Option(
        "--steps", metavar="A..B|A..|A|all", help="Steps that the taps record, B exclusive: 0 is the prompt, i the i-th generated token."
    ),
]
PrefillChunk = Annotated[
    int | None,
    typer.Option(
        "--prefill-chunk",
        metavar="N",
        help="Run the prompt N positions at a time; results do not depend on it, but in an engine's arithmetic they may [all].",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Where to write the trace [<model-stem>-trace beside the model; here, if that lies in a package or a cache].",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="Threads; results do not depend on it [all processors].")]
Positions = Annotated[str, typer.Option("--positions", metavar="last|all", help="Positions whose logits lm_head holds.")]
Fingerprint = Annotated[
    str,
    typer.Option(
        "--fingerprint",
        metavar="sampled|full",
        help="Name the model file in the manifest by its header and 256 samples of its weights, or by every byte.",
    ),
]
StatsOnly = Annotated[bool, typer.Option("--stats-only", help="Write the manifest with its statistics, and no tensors.")]
Target = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="TARGET[:N]", help="With a MODEL: llvm, cuda or reference [llvm]. cuda:N is the GPU number N."),
]
Arithmetic = Annotated[
    str | None,
    typer.Option(
        "--arithmetic",
        metavar="NAME[,cache=f16|f32][,flash=on|off]",
        help="Round as an engine does: ggml-avx2 and others (docs/arithmetic.md) [that of the ARTIFACT; of a MODEL plain].",
    ),
]
ModelPlace = Annotated[Path | None, typer.Option("--model", metavar="MODEL", help="With an ARTIFACT: where its model lies now.")]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="RANGE[@HOST:PORT],…",
        help="Run some layers on each of several TVM RPC servers, 0..16@one:9090,16..32@two:9090, or in workers: 0..16,16..32.",
    ),
]
Executor = Annotated[
    str | None,
    typer.Option("--executor", metavar="WHERE", help="With --split without servers: where the workers are [local]."),
]
Rpc = Annotated[
    str | None,
    typer.Option("--rpc", metavar="HOST:PORT[/KEY]", help="Run on the TVM RPC server there; the trace is that of a run here."),
]
