"""The reference interpreter against Hugging Face transformers: every stage of every golden model."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.fix_context import fix_context
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.runtime.reference import run_reference
from tests.support.golden import GoldenModel, golden_models, nmse, smollm2_golden
from tests.support.models import require_smollm2

#: transformers computes RoPE's angles, the RMSNorm and the softmax in float32 even here; that leaves about 1e-13.
TOLERANCE = 1e-11


def test_there_is_a_golden_model_for_every_block_format() -> None:
    formats = {tensor.format.name for golden in golden_models() for tensor in load_model(golden.path).file.tensors.values()}
    assert formats == {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "MXFP4"}


@pytest.mark.parametrize("golden", golden_models(), ids=lambda golden: golden.name)
def test_every_stage_of_a_tiny_model(golden: GoldenModel) -> None:
    model = load_model(golden.path)
    seen = set()
    for node, value in run_reference(fix_context(build_graph(model), len(golden.tokens)), model, golden.tokens):
        if node.stage is None:
            continue
        expected = golden.stages[node.layer, node.stage]
        is_one_row = STAGE_BY_NAME[node.stage].is_logits or STAGE_BY_NAME[node.stage].is_of_text
        assert value.shape == ((1, *expected.shape) if is_one_row else expected.shape)
        error = nmse(value, expected)
        assert error <= TOLERANCE, f"layer {node.layer} {node.stage}: NMSE {error:.1e}"
        seen.add((node.layer, node.stage))
    assert seen == set(golden.stages)


def test_every_stage_of_smollm2() -> None:
    model = load_model(require_smollm2())
    golden = smollm2_golden()
    seen = set()
    for node, value in run_reference(build_graph(model), model, golden.tokens):
        if node.stage is None:
            continue
        sample = golden.samples[node.layer, node.stage]
        error, rms_error = sample.nmse(value), sample.rms_error(value)
        assert error <= TOLERANCE, f"layer {node.layer} {node.stage}: NMSE of the sample {error:.1e}"
        assert rms_error <= TOLERANCE**0.5, f"layer {node.layer} {node.stage}: RMS off by {rms_error:.1e}"
        seen.add((node.layer, node.stage))
        if node.stage == "lm_head":
            assert nmse(value, golden.logits) <= TOLERANCE
            assert np.argmax(value) == np.argmax(golden.logits)
    assert seen == set(golden.samples)
