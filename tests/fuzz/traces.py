"""What is read as a trace: APRT files, manifests, arrays of other programs and the rules that name them."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from random import Random

import numpy as np

from aprgraph.runtime.trace.name_map import NameMap
from aprgraph.runtime.trace.reader import Trace
from tests.fuzz.mutations import any_value, mutate_bytes, mutate_json, mutate_text
from tests.fuzz.target import Target
from tests.support.tiny import write_tiny_model
from tests.support.traces import trace_model, values, write_bare


class Aprt(Target):
    """The header, the length, and where the file lies."""

    name = "aprt"
    file = "t/layer-0/ffn_up.bin"
    commands = ("inspect t/layer-0/ffn_up.bin --json", "diff t u --json", "inspect t --json", "diff t u --html page.html")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("t", "u"):
            write_bare(folder / name, {(0, "ffn_up"): values(3, 8), (0, "ffn_gate"): values(3, 8, seed=1), (None, "lm_head"): values(9)})
        self.whole = self.path.read_bytes()

    def mutate(self, random: Random) -> None:
        for path in self.path.parent.glob("*"):
            if path.name not in ("ffn_up.bin", "ffn_gate.bin"):
                path.unlink()
        self.path.write_bytes(mutate_bytes(random, self.whole, 24))
        if random.random() < 0.2:
            name = mutate_text(random, "ffn_down.bin", 1).replace("/", "_").replace("\0", "_")[:200]
            if name not in ("", ".", ".."):
                (self.path.parent / name).write_bytes(self.path.read_bytes())

    def read(self) -> None:
        trace = Trace.open(self.folder / "t")
        for entry in trace:
            trace.load(entry)


class Manifest(Target):
    """Every field of trace.json, and lines of the graph in it."""

    name = "trace"
    file = "t/trace.json"
    each = 4
    commands = (
        "diff t u --html page.html", "diff t u --json", "audit t --model m.gguf --json", "audit t --html page.html --model m.gguf", "inspect t --json", "inspect t",
        "graph --diff t u -o g.svg", "graph t -o g.dot", "diff t u --model m.gguf --html page.html", "graph --diff t u --model m.gguf --format json -o g.json",
        "diff t u --suggest", "run m.gguf --target reference --taps lm_head --tokens 1 -o t",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_tiny_model(folder / "m.gguf", layers=1)
        for name in ("kept", "u"):
            trace_model(folder / name, folder / "m.gguf", layers=1, tokens=(1, 2, 3))
        self.seed = json.loads((folder / "kept/trace.json").read_text())
        self.more = {"generated": [4, 5], "writer": "other", "arithmetic": "float16", "weights": "float", "qk_rows": "halves", "notes": ["so"],
                     "engine_arithmetic": "ggml-avx2"}  # fmt: skip

    def mutate(self, random: Random) -> None:
        shutil.rmtree(self.folder / "t", ignore_errors=True)
        shutil.copytree(self.folder / "kept", self.folder / "t", copy_function=_link)
        document = {**self.seed, **{key: value for key, value in self.more.items() if random.random() < 0.3}}
        if random.random() < 0.25:
            graph = mutate_text(random, "\n".join(self.seed["graph"]), 2).split("\n")
            text = json.dumps({**document, "graph": graph})
        else:
            text = mutate_json(random, document)
        self.path.unlink(missing_ok=True)
        self.path.write_text(text, encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        trace = Trace.open(self.folder / "t")
        for entry in list(trace)[:5]:
            trace.load(entry)


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


class Arrays(Target):
    """.npy and .npz: the header's text and bytes, members of archives, and names."""

    name = "arrays"
    file = "d.npz"
    commands = ("inspect d.npz --json", "diff d.npz e.npz --json", "inspect f.npy --json")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tensors = {
            "layer0.ffn_up": values(3, 8),
            "layer0.qkv_matmul[q]": values(3, 2, 4),
            "layer0.qkv_matmul[k]": values(1, 3, 4),
            "layer0.qkv_matmul[v]": values(3, 4),
            "layer0.attn_scores": values(2, 3, 3),
            "lm_head": values(9),
            "tokens": np.array([1, 2, 3]),
        }
        np.savez(folder / "e.npz", **self.tensors)
        self.members = {f"{name}.npy": self._npy(value) for name, value in self.tensors.items()}

    @staticmethod
    def _npy(value: object) -> bytes:
        out = io.BytesIO()
        np.save(out, value)  # type: ignore[arg-type]
        return out.getvalue()

    def mutate(self, random: Random) -> None:
        members = dict(self.members)
        name = random.choice(list(members))
        how, old = random.random(), members[name]
        end = old.index(b"\n")
        if how < 0.3:
            members[name] = mutate_bytes(random, old, 24)
        elif how < 0.7:
            head = mutate_text(random, old[10:end].decode("latin-1"), 2).encode("latin-1", "replace")
            members[name] = old[:8] + (len(head) + 1).to_bytes(2, "little") + head + b"\n" + old[end + 1 :]
        elif how < 0.8:
            array = np.asarray(any_value(random, self.tensors[name[:-4]].tolist()), dtype=object if random.random() < 0.3 else None)
            members[name] = self._npy(array) if array.dtype != object else old
        else:
            members[mutate_text(random, name, 1)] = members.pop(name)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for one, data in members.items():
                archive.writestr(one.replace("\0", "0")[:60000] or "x", data)
        whole = packed.getvalue()
        self.path.write_bytes(mutate_bytes(random, whole, len(whole)) if random.random() < 0.3 else whole)
        (self.folder / "f.npy").write_bytes(next(iter(members.values())))

    def read(self) -> None:
        trace = Trace.open(self.path)
        for entry in trace:
            trace.load(entry)


class Names(Target):
    """Rules that name arrays: expressions and places."""

    name = "names"
    file = "rule.txt"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.arrays = ["model.layers.0.mlp", "model.layers.10.mlp.up_proj", "lm_head", "x" * 300, "", "a.b/c"]

    def mutate(self, random: Random) -> None:
        seed = random.choice(
            (
                r"layers\.(\d+)\.mlp=layer\1.ffn_out",
                r"(lm)_(head)=\1_\2",
                r"([a-z]+\.)*(\d+)\.mlp=layer\2.ffn_out",
                r"h=lm_head",
                r"layers\.(\d+)\.mlp = qkv_matmul[q]",
                r"mlp.*=ignore",
            )
        )
        rule = mutate_text(
            random,
            seed,
            3,
            (r"(\w+)*", r"\1", r"\99", "(?P<a>.)", r"\g<a>", "(?i)", "{9,}", "[", "=", "step2.", ".*?", "(?=a)", "layer", "[k]", "[", "]"),
        )
        self.path.write_text(rule, encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        from aprgraph.graph.errors import TraceError

        rules = NameMap([self.path.read_text(encoding="utf-8", errors="surrogatepass")])
        try:
            rules.check_used([("d.npz", self.arrays)])
        except TraceError as error:
            if "was stopped after" not in str(error):
                raise
        for name in self.arrays:
            rules.place_of("d.npz", name)
