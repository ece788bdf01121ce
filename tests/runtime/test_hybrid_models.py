"""Models with recurrent layers, compiled: the numbers of transformers, and the same bits however a text is divided into passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.runtime.reference import run_reference
from aprgraph.runtime.trace.reader import Trace
from tests.support.compiled import compiled
from tests.support.golden import GoldenModel, golden_models, nmse

MODELS = [
    golden
    for golden in golden_models()
    if golden.name.startswith(("qwen3next", "qwen35", "lfm2", "mamba", "jamba", "granitehybrid", "falcon", "nemotron-h"))
]
#: How many tokens follow the prompt, of which the last is read by nothing.
MORE = 3


def rows(trace: Trace) -> dict[tuple[int | None, str], np.ndarray]:
    """What has a row for each position, the positions of all steps one after the other."""
    found: dict[tuple[int | None, str], list[np.ndarray]] = {}
    for entry in sorted(trace.entries, key=lambda entry: entry.step):
        if entry.stage not in ("attn_scores", "attn_softmax", "lm_head_raw", "lm_head"):
            found.setdefault((entry.layer, entry.stage), []).append(np.asarray(trace.load(entry)))
    return {key: np.concatenate(values) for key, values in found.items()}


@pytest.mark.contract("STEPS-STATE-1")
@pytest.mark.parametrize("golden", MODELS, ids=lambda golden: golden.name)
def test_passes_of_the_cpu(golden: GoldenModel, tmp_path: Path) -> None:
    there = compiled(golden.path)
    layers = f"0..{len({layer for layer, _ in golden.stages if layer is not None})}"

    def run(name: str, tokens: tuple[int, ...], **options: object) -> Trace:
        return there.run("all", layers, tokens=tokens, directory=tmp_path / name, **options)  # type: ignore[arg-type]

    first = run("first", golden.tokens)
    assert {(entry.layer, entry.stage) for entry in first.entries} == set(golden.stages)
    errors = {entry.key: nmse(np.asarray(first.load(entry)), golden.stages[entry.layer, entry.stage]) for entry in first.entries}
    assert max(errors.values()) < 1e-9, max(errors, key=errors.__getitem__)

    generated = run("generated", golden.tokens, max_tokens=MORE, steps=f"0..{MORE}")
    assert generated.info is not None
    text = (*golden.tokens, *generated.info.extra["generated"][:-1])
    whole = rows(run("whole", text))
    for name, other in (
        ("generated", rows(generated)),
        ("in ones", rows(run("ones", text, prefill_chunk=1))),
        ("in fours", rows(run("fours", text, prefill_chunk=4))),
    ):
        assert other.keys() == whole.keys()
        for key, value in whole.items():
            assert other[key].tobytes() == value.tobytes(), (name, key)


def test_the_first_files_of_qwen3next_have_one_weight_for_q_k_v_and_the_gate(tmp_path: Path) -> None:
    """It has the rows of each head of q and k, then those of v and of the gate that go with it, as checkpoints have."""
    golden = next(golden for golden in MODELS if golden.name == "qwen3next-f32")
    reader, path = GGUFReader(golden.path), tmp_path / "first.gguf"
    writer = GGUFWriter(path, "qwen3next")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, inner[0] if inner else None)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    mixed, gate = tensors.pop("blk.0.attn_qkv.weight"), tensors.pop("blk.0.attn_gate.weight")
    parts = [part.reshape(2, -1, part.shape[1]) for part in (*np.split(mixed, [16, 32]), gate)]
    tensors["blk.0.ssm_in.weight"] = np.concatenate(parts, axis=1).reshape(-1, gate.shape[1])
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = load_model(path)
    for node, value in run_reference(build_graph(model), model, golden.tokens):
        if node.stage is not None:
            assert nmse(value, golden.stages[node.layer, node.stage]) < 1e-11, node.name
