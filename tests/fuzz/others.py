"""Artifacts, graphs' texts, repros, token ids, chat templates, plans and other options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import ClassVar

import aprgraph
from aprgraph.codegen.artifact import digest, read_artifact
from aprgraph.graph.arithmetics import parse_arithmetic
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.metadata import Metadata, parse_overrides
from aprgraph.graph.side_tensors import parse_ignored
from aprgraph.graph.tap_plan import parse_plan, parse_steps
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify
from aprgraph.runtime.blame.repro import check_repro_place
from aprgraph.runtime.chat import chat_messages, render_chat
from aprgraph.runtime.chat.process import Limits
from aprgraph.runtime.diff.overrides import parse_override
from aprgraph.runtime.remote.address import parse_remote
from aprgraph.runtime.tokens import parse_tokens, read_prompt_file, read_tokens_file
from tests.fuzz.mutations import mutate_json, mutate_text
from tests.fuzz.target import Target
from tests.support.tiny import write_tiny_model


class ArtifactJson(Target):
    """Every field of artifact.json; the digest of the graph is put right, so that more is read."""

    name = "artifact"
    file = "m.aprg/artifact.json"
    commands = (
        "inspect m.aprg --json",
        "run m.aprg --taps lm_head --tokens 1 -o out",
        "graph m.aprg -o g.dot",
        "compile m.gguf --target reference -o m.aprg",
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_tiny_model(folder / "m.gguf", layers=1)
        aprgraph.load(folder / "m.gguf").compile("reference", folder / "kept.aprg")
        self.seed = json.loads((folder / "kept.aprg/artifact.json").read_text())
        self.graph = (folder / "kept.aprg/graph.txt").read_text()
        self.device = {"fat_binary": "0" * 24, "architectures": ["sm_90"], "compiler": "nvcc", "functions": "{}"}
        self.more = {"library": "0" * 24, "cpu": "x86-64-v2", "device": self.device, "ignore": ["a"], "unapplied": ["so", [{"name": "taps"}, "x"]],
                     "target": "cuda", "overrides": {"llama.rope.freq_base": 1.0}}  # fmt: skip

    def mutate(self, random: Random) -> None:
        shutil.rmtree(self.path.parent, ignore_errors=True)
        shutil.copytree(self.folder / "kept.aprg", self.path.parent)
        document = {**self.seed, **{key: value for key, value in self.more.items() if random.random() < 0.2}}
        if random.random() < 0.3:
            graph = mutate_text(random, self.graph, 2).encode("utf-8", "surrogatepass")
            (self.path.parent / "graph.txt").write_bytes(graph)
            document["graph"] = digest(graph)
        self.path.write_text(mutate_json(random, document), encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        read_artifact(self.path.parent)


class GraphText(Target):
    """Lines, names, attributes and types of a graph's text."""

    name = "graph"
    file = "m.aprg/graph.txt"
    commands = ("graph m.aprg -o g.svg", "graph m.aprg --format json -o g.json", "graph m.aprg -o g.mmd", "graph m.aprg -o g.graphml")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "m.aprg").mkdir()
        (folder / "m.aprg/artifact.json").write_text("{}")
        self.seeds = []
        for family in ("llama", "qwen3moe", "deepseek2", "gemma3", "mamba2"):
            path = write_tiny_model(folder / f"{family}.gguf", family=family)
            self.seeds.append(print_graph(aprgraph.load(path).graph))
        stage = json.dumps([{"name": "own", "dims": ["n", "E"], "kind": "norm", "summary": "s", "before": "lm_head"}])
        self.seeds.append(self.seeds[0].replace("{", f"{{stages = {json.dumps(stage)}, ", 1))

    def mutate(self, random: Random) -> None:
        text = mutate_text(
            random, random.choice(self.seeds), 4, ("%tokens", " : f32[n, 64]", "stage", "layer 3", "{a = 1}", "{a = [1, 2]}", " = tap(")
        )
        self.path.write_text(text, encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        graph = parse_graph(self.path.read_text(encoding="utf-8", errors="surrogatepass"))
        assert parse_graph(print_graph(graph)) == graph
        verify(graph)


class Repro(Target):
    """repro.json, which says what may be replaced."""

    name = "repro"
    file = "r/repro.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "r").mkdir()
        (folder / "r/actual.npy").write_bytes(b"1")
        self.seed = {
            "format": "aprgraph-repro",
            "version": 1,
            "files": {"actual.npy": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"},
        }

    def mutate(self, random: Random) -> None:
        self.path.write_text(mutate_json(random, self.seed), encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        check_repro_place(self.path.parent)


class Tokens(Target):
    """Files of token ids and prompts, and lists of ids."""

    name = "tokens"
    file = "ids"
    commands = (
        "run m.gguf --target reference --taps embedding --tokens-file ids -o out",
        "run m.gguf --target reference --taps embedding --prompt-file ids -o out",
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_tiny_model(folder / "m.gguf", layers=1)

    def mutate(self, random: Random) -> None:
        seed = random.choice(("1, 2, 3", "[1, 2, 3]\n", "1\n2\n3\n", "1 2 3", "What is 2+2?"))
        self.text = mutate_text(random, seed, 4, ("[", "]", ",", ",,", "-", "+1", "1e3", "0x1", "\u0661", "1" * 13))
        self.path.write_text(self.text, encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        for one in (lambda: parse_tokens(self.text), lambda: read_prompt_file(self.path), lambda: read_tokens_file(self.path)):
            try:
                one()
            except AprgraphError as error:  # noqa: PERF203
                assert len(str(error)) < 3000


class Template(Target):
    """Chat templates, rendered as `--chat` does, in a process with bounds."""

    name = "template"
    file = "template.jinja"

    def mutate(self, random: Random) -> None:
        seed = random.choice((
            "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}",
            "{%- set ns = namespace(x=0) -%}{%- for m in messages -%}{%- set ns.x = ns.x + 1 -%}{{ m['content'] }}{{ loop.index0 }}{%- endfor -%}{{ raise_exception('no') }}",
            "{% macro f(x) %}{{ x | tojson }}{% endmacro %}{{ f(messages) }}{{ strftime_now('%Y') }}{{ bos_token }}",
        ))  # fmt: skip
        words = (
            "{{",
            "}}",
            "{%",
            "%}",
            "().__class__",
            "range(10**9)",
            " ** 99",
            "| tojson",
            "loop",
            "x" * 100,
            "['__init__']",
            "~",
            "| map(attribute='x')",
        )
        self.path.write_text(mutate_text(random, seed, 4, words), encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        template = self.path.read_text(encoding="utf-8", errors="surrogatepass")
        render_chat(
            Metadata(self.path, {"tokenizer.chat_template": template}), chat_messages("hi"), limits=Limits(cpu_seconds=2, memory=256 << 20)
        )


class Options(Target):
    """What an option holds: taps, layers, steps, overrides, tolerances, arithmetics, addresses."""

    name = "options"
    file = "options.txt"
    _SEEDS: ClassVar = {
        "taps": "qkv_matmul,ffn_up, lm_head", "layers": "0..12", "steps": "0..3", "override": "llama.rope.freq_base=float:1e4",
        "tolerance": "ffn_.*=nmse:2.5e-5", "arithmetic": "ggml-avx2,cache=f16,flash=on", "rpc": "host:9090/key", "ignore": "llama.x.*,blk.*.bias",
    }  # fmt: skip

    def mutate(self, random: Random) -> None:
        self.given = {name: mutate_text(random, seed, 3) * (1 if random.random() < 0.98 else 5000) for name, seed in self._SEEDS.items()}
        self.path.write_text(json.dumps(self.given))

    def read(self) -> None:
        given = json.loads(self.path.read_text())
        for one in (
            lambda: parse_plan(given["taps"], given["layers"]), lambda: parse_plan("all", given["layers"]), lambda: parse_steps(given["steps"]),
            lambda: parse_overrides([given["override"]]), lambda: parse_override(given["tolerance"]), lambda: parse_arithmetic(given["arithmetic"]),
            lambda: parse_remote(given["rpc"]), lambda: parse_ignored([given["ignore"]]),
        ):  # fmt: skip
            try:
                one()
            except AprgraphError as error:  # noqa: PERF203
                assert len(str(error)) < 3000, str(error)[:200]
