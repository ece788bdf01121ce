"""`aprgraph graph` and `aprgraph stages`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.cli.graph import graph
from aprgraph.cli.graph_source import open_graph
from aprgraph.cli.stages import stages
from aprgraph.graph.errors import AprgraphError, ArtifactError, GraphError, PlanError, TraceError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes import InsertTaps, Prune
from aprgraph.graph.stages import STAGES
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.cli import files_under, run_cli

Models = Callable[..., Path]


def write_trace(directory: Path, model: Path, scale: float = 1.0) -> Trace:
    """A trace of two stages of layer 0, with made-up numbers."""
    tapped = Prune()(InsertTaps(parse_plan("embedding,attn_norm"))(build_graph(load_model(model))))
    writer = TraceWriter(directory)
    values = np.arange(3 * 64, dtype=np.float32).reshape(3, 64) + 1
    writer.write("layer0.embedding", "embedding", 0, 0, values)
    writer.write("layer0.attn_norm", "attn_norm", 0, 0, values * np.float32(scale))
    info = TraceInfo({"name": "tiny"}, "reference", (1, 2, 3), "embedding,attn_norm 0..1", "last", print_graph(tapped))
    return writer.finish(info)


def test_text_is_the_default_and_parses_back(tiny_model: Models, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    graph(model)
    assert parse_graph(capsys.readouterr().out) == build_graph(load_model(model))


def test_passes_show_what_they_do(tiny_model: Models, capsys: pytest.CaptureFixture[str]) -> None:
    graph(tiny_model(layers=3), taps="qkv_matmul", layers="1..2", passes="insert-taps, prune", print_ir_after="all")
    captured = capsys.readouterr()
    pruned = parse_graph(captured.out)
    assert pruned.outputs == ("tap.layer1.qkv_matmul",)
    assert "layer0.ffn_out" in pruned
    assert "layer1.attn_scores" not in pruned
    first, second = captured.err.split("// after prune\n")
    assert parse_graph(first.removeprefix("// after insert-taps\n")).with_op("tap")
    assert parse_graph(second) == pruned


def test_passes_take_their_options_in_braces(tiny_model: Models, capsys: pytest.CaptureFixture[str]) -> None:
    graph(tiny_model(layers=3), passes="insert-taps{taps=attn_out layers=1..2},prune,fuse-attention,one-pass")
    fused = parse_graph(capsys.readouterr().out)
    assert fused.outputs == ("tap.layer1.attn_out",)
    assert [node.name for node in fused.with_op("attention")] == ["layer0.attention", "layer1.attention"]
    assert not fused.with_op("cache")
    with pytest.raises(PlanError, match="--taps attn_out: --passes names the taps of insert-taps already; drop one of the two"):
        graph(tiny_model(layers=3), taps="attn_out", passes="insert-taps{taps=ffn_out}")


def test_taps_alone_insert_and_do_not_prune(tiny_model: Models, capsys: pytest.CaptureFixture[str]) -> None:
    graph(tiny_model(), taps="qkv_matmul", output_format="json")
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [node["id"] for node in nodes if node["tapped"]] == ["layer0.qkv_matmul"]
    assert nodes[-1]["id"] == "lm_head"


def test_the_ending_of_the_file_chooses_the_format(tiny_model: Models, tmp_path: Path) -> None:
    graph(tiny_model(), output=tmp_path / "g.svg")
    assert ET.parse(tmp_path / "g.svg").getroot().tag.endswith("svg")
    graph(tiny_model(), output=tmp_path / "g.svg", output_format="dot")
    assert (tmp_path / "g.svg").read_text().startswith("digraph")
    assert [path.name for path in tmp_path.iterdir()] == ["g.svg"]


def test_layers_and_unfold(tiny_model: Models, capsys: pytest.CaptureFixture[str]) -> None:
    def titles(**options: object) -> list[str]:
        graph(tiny_model(layers=3), output_format="json", **options)  # type: ignore[arg-type]
        return [group["title"] for group in json.loads(capsys.readouterr().out)["groups"]]

    assert titles() == ["layers 0-2 (x3)"]
    assert titles(unfold=True) == ["layer 0", "layer 1", "layer 2"]
    assert titles(layers="1..3") == ["layer 1", "layer 2"]


def test_an_override_reaches_the_graph(tiny_model: Models) -> None:
    changed = open_graph(tiny_model(), ["llama.rope.freq_base=float:500"])
    assert changed["rope_angles"].attrs["base"] == 500.0


def test_an_artifact_is_drawn_from_its_text(tiny_model: Models, tmp_path: Path) -> None:
    expected = build_graph(load_model(tiny_model()))
    (tmp_path / "artifact.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"graph\.txt: cannot be read"):
        open_graph(tmp_path)
    (tmp_path / "graph.txt").write_text("graph @x {")
    with pytest.raises(ArtifactError, match="not the graph of an artifact"):
        open_graph(tmp_path)
    (tmp_path / "graph.txt").write_text(print_graph(expected))
    assert open_graph(tmp_path) == expected
    with pytest.raises(AprgraphError, match="--override-kv needs the model"):
        open_graph(tmp_path, ["llama.rope.freq_base=float:500"])


def test_a_trace_is_drawn_with_its_taps(tiny_model: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path / "a", tiny_model())
    graph(tmp_path / "a", output_format="json")
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [node["id"] for node in nodes if node["tapped"]] == ["layer0.embedding", "layer0.attn_norm"]
    with pytest.raises(PlanError, match="has its taps already"):
        graph(tmp_path / "a", taps="attn_norm")
    (tmp_path / "a" / "trace.json").unlink()
    with pytest.raises(TraceError, match=r"has no graph: no manifest, .* give the model"):
        graph(tmp_path / "a")


def test_diff_colours_the_graph(tiny_model: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path / "a", tiny_model())
    write_trace(tmp_path / "b", tiny_model(), scale=2.0)
    sides = (tmp_path / "a", tmp_path / "b")

    def classes(source: Path | None) -> dict[str, str]:
        graph(source, output_format="json", diff=sides, unfold=True)
        nodes = json.loads(capsys.readouterr().out)["nodes"]
        return {node["id"]: node["divergence"]["class"] for node in nodes if node["divergence"]}

    assert classes(None) == {"layer0.embedding": "IDENTICAL", "layer0.attn_norm": "INTRODUCED"}
    whole = classes(tiny_model())
    assert (whole["layer0.embedding"], whole["layer0.attn_norm"]) == ("IDENTICAL", "INTRODUCED")
    assert set(whole.values()) == {"IDENTICAL", "INTRODUCED", "UNMEASURED"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_format": "png"}, AprgraphError, "--format 'png': expected one of text, dot"),
        ({"output": Path("g.png")}, AprgraphError, r"its ending names no format; .*\.svg"),
        ({"layers": "1..9"}, PlanError, r"graph @\S+ has layers 0\.\.2"),
        ({"layers": "2..1", "taps": "attn_norm"}, PlanError, "no layer in it"),
        ({"passes": "prune", "taps": "attn_norm"}, PlanError, "nothing inserts them"),
        ({"passes": "shake"}, GraphError, "unknown pass 'shake'"),
        ({"taps": "attn_norm", "print_ir_after": "prune"}, GraphError, "a pass that runs: insert-taps"),
        ({"print_ir_after": "all", "taps": "nonsense"}, PlanError, "unknown stage 'nonsense'"),
        ({"taps": "qkv_bias"}, PlanError, "no stage qkv_bias"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    options: dict[str, object], error: type[Exception], message: str, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        graph(model, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_else_is_written_over_only_by_force(tiny_model: Models, tmp_path: Path) -> None:
    path = tmp_path / "g.svg"
    path.write_text("<svg>mine</svg>")
    with pytest.raises(
        TraceError, match="is there, and is no graph that aprgraph wrote; add --force to write there all the same, or give another"
    ):
        graph(tiny_model(), output=path)
    assert path.read_text() == "<svg>mine</svg>"
    for suffix in ("svg", "dot", "json", "txt", "graphml", "mmd"):
        for _ in range(2):
            graph(tiny_model(), output=tmp_path / f"ours/g.{suffix}")
    graph(tiny_model(), output=path, force=True)
    assert path.read_text() == (tmp_path / "ours/g.svg").read_text()


@pytest.mark.contract("ERR-INPUT-1")
def test_a_graph_does_not_go_over_what_it_is_read_from(tiny_model: Models, tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(tiny_model().read_bytes())
    before = source.read_bytes()
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to(source)
    (tmp_path / "folder").mkdir()
    for name in ("m.gguf", "hard", "soft", "folder/../m.gguf"):
        with pytest.raises(TraceError, match="is what is to be read; give another place with -o"):
            graph(source, output=tmp_path / name, output_format="svg", force=True)
    (tmp_path / "other.gguf").write_bytes(before)
    with pytest.raises(TraceError, match="other.gguf: is a model, or a part of one; give another place with -o"):
        graph(source, output=tmp_path / "other.gguf", output_format="svg", force=True)
    assert source.read_bytes() == (tmp_path / "other.gguf").read_bytes() == before


@pytest.mark.contract("ERR-INPUT-1")
def test_nor_over_a_model_of_another_kind(tiny_model: Models, tmp_path: Path) -> None:
    """--force is for a file that somebody wrote, not for what a model or a checkpoint is made of."""
    held = {
        "a.safetensors": b"\x02\0\0\0\0\0\0\0{}" + bytes(8),
        "a.apr": b"APR\0" + bytes(60),
        "a.bin": b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(8),
        "checkpoint/config.json": b"{}",
        "checkpoint/tokenizer.json": b"{}",
        "checkpoint/model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
        "notes.json": b"{}",
    }
    for name, data in held.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for name, data in held.items():
        if name != "notes.json":
            with pytest.raises(TraceError, match="is a model, or a part of one; give another place with -o"):
                graph(tiny_model(), output=tmp_path / name, output_format="json", force=True)
            assert (tmp_path / name).read_bytes() == data
    graph(tiny_model(), output=tmp_path / "notes.json", force=True)
    assert (tmp_path / "notes.json").read_bytes() != b"{}"


@pytest.mark.contract("ERR-INPUT-1")
def test_nor_over_the_files_of_a_trace(tiny_model: Models, tmp_path: Path) -> None:
    trace = tmp_path / "t"
    assert run_cli("run", tiny_model(), "--tokens", "1,2", "--taps", "all", "--target", "reference", "-o", trace).code == 0
    before = files_under(trace)
    for name in ("trace.json", "layer-0/attn_norm.bin"):
        with pytest.raises(TraceError, match=f"{name}: is what is to be read; give another place with -o"):
            graph(trace, output=trace / name, output_format="svg", force=True)
    assert files_under(trace) == before
    for _ in range(2):  # what was drawn beside them is not read
        graph(trace, output=trace / "g.svg", force=True)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(AprgraphError, match="not there; expected a GGUF file"):
        graph(tmp_path / "none.gguf")
    with pytest.raises(AprgraphError, match="nothing to draw"):
        graph()
    with pytest.raises(TraceError, match="cannot be written"):
        graph(Path(__file__).parents[1] / "golden" / "llama-f32.gguf", output=Path("/proc/no/g.svg"))


@pytest.mark.contract("STAGES-SINGLE-1")
def test_stages_lists_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    stages()
    rows = capsys.readouterr().out.split("\n\n")[0].splitlines()[2:]
    assert [row.split()[0] for row in rows] == [stage.name + "*" * stage.addition for stage in STAGES]
    stages(json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["stages"][0] == {
        "name": "embedding",
        "dims": ["n", "E"],
        "where": "layer 0",
        "kind": "lookup",
        "summary": STAGES[0].summary,
        "addition": False,
    }


def test_stages_of_a_model_have_its_shapes(tiny_model: Models, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(layers=4, format="Q8_0", formats={"blk.1.ffn_down.weight": "F16"})
    stages(model, json=True)
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert [(row["layers"], row["weights"]) for row in rows if row["name"] == "ffn_out"] == [
        ([0, 2, 3], ["q8_0[64, 96]"]),
        ([1], ["f16[64, 96]"]),
    ]
    assert next(row["dims"] for row in rows if row["name"] == "attn_scores") == [4, "n", "t"]
    assert "qkv_bias" not in {row["name"] for row in rows}
    stages(model)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["ffn_out", "n,", "64", "0,", "2-3", "linear", "q8_0[64,", "96]"] for line in lines)
    assert lines[-1].startswith("lm_head")


def test_insert_taps_without_a_list_taps_all_stages_of_layer_0(tiny_model: Models, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    graph(model, passes="insert-taps,prune")
    tapped = parse_graph(capsys.readouterr().out).with_op("tap")
    expected = [node.stage for node in build_graph(load_model(model)).staged() if node.layer in (0, None)]
    assert [tap.stage for tap in tapped] == expected
