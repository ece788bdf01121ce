"""What a capture says of the arithmetic and the weights, and models that are wrapped: PEFT, torch.compile, a model without its head."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import aprgraph
from aprgraph.graph.errors import TraceError, UnsupportedModelError
from aprgraph.runtime.trace.reader import Trace
from tests.support.tiny import write_tiny_model

try:
    import torch
    import transformers

    from aprgraph.capture.arithmetic import ArithmeticWatch
    from tests.golden.transformers_models import load
except ModuleNotFoundError:
    torch = transformers = load = ArithmeticWatch = None  # type: ignore[assignment,misc]

pytestmark = pytest.mark.skipif(torch is None, reason="torch and transformers are not here")

TOKENS = (17, 3, 30, 3, 0, 31, 29, 29)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and our own run of it beside it, in ``ours``."""
    place = tmp_path_factory.mktemp("qwen3")
    found = write_tiny_model(place / "tiny.gguf", family="qwen3", layers=2, vocabulary=32, tokenizer=False, format="F32")
    aprgraph.load(found).compile("reference", place / "tiny.aprg").run("all", "0..2", tokens=TOKENS, directory=place / "ours")
    return found


@pytest.fixture
def model(path: Path) -> Any:
    """The same weights in transformers, in float32."""
    found = load(path).model.to(torch.float32)
    found.set_attn_implementation("eager")
    return found


def capture(model: Any, place: Path, **options: Any) -> Trace:
    """A capture of one pass."""
    with torch.no_grad(), aprgraph.capture.transformers(model, place, **options) as found:
        model(torch.tensor([TOKENS]))
    return found.trace


def facts(trace: Trace) -> tuple[str, str, list[str]]:
    """What the manifest says."""
    assert trace.info is not None
    return trace.info.extra["arithmetic"], trace.info.extra["weights"], trace.info.extra.get("notes", [])


# -- arithmetic ---------------------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-TRANSFORMERS-3")
@pytest.mark.parametrize("taps", ["all", "attn_norm,ffn_norm"])
def test_autocast_is_recorded_and_a_right_model_is_right(model: Any, path: Path, tmp_path: Path, taps: str) -> None:
    """Also where nothing of what is recorded is in bfloat16 itself."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = capture(model, tmp_path / "theirs", taps=taps)
    arithmetic, weights, notes = facts(trace)
    assert (arithmetic, weights) == ("bfloat16", "float")
    assert notes[0].startswith("the arithmetic is taken for bfloat16: torch.autocast was on, with bfloat16; the parameters are float32")
    report = aprgraph.diff(path.parent / "ours", tmp_path / "theirs", model=path)
    assert (report.profile, report.exit_code) == ("same-graph-bf16", 0), report.headline


@pytest.mark.contract("CAPTURE-TRANSFORMERS-3")
def test_nothing_is_said_where_all_is_of_one_type(model: Any, tmp_path: Path) -> None:
    assert facts(capture(model, tmp_path / "one")) == ("float32", "float", [])
    assert facts(capture(model.to(torch.bfloat16), tmp_path / "two")) == ("bfloat16", "float", [])


@pytest.mark.contract("CAPTURE-TRANSFORMERS-3")
def test_the_coarsest_of_several_types_counts(model: Any, tmp_path: Path) -> None:
    model.lm_head.half()
    model.model.norm.register_forward_hook(lambda _module, _args, output: output.half())
    arithmetic, _, notes = facts(capture(model, tmp_path / "theirs"))
    assert (arithmetic, notes) == ("float16", ["the arithmetic is taken for float16: the parameters are float16 and float32"])


def test_reduced_products_are_no_float32(model: Any, tmp_path: Path) -> None:
    torch.set_float32_matmul_precision("high")
    try:
        arithmetic, _, notes = facts(capture(model, tmp_path / "theirs"))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (arithmetic, len(notes)) == ("float16", 1)
    assert "float32 products are of high precision" in notes[0]


@pytest.mark.contract("CAPTURE-TRANSFORMERS-3")
@pytest.mark.filterwarnings("ignore")
def test_linear_layers_that_torch_quantised(model: Any, path: Path, tmp_path: Path) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    arithmetic, weights, notes = facts(capture(quantised, tmp_path / "theirs"))
    assert (arithmetic, weights) == ("q8-activations", "quantised")
    assert notes[0].startswith("the arithmetic is taken for q8-activations: Linear of torch.ao rounds activations to 8 bits")
    assert notes[1].startswith("the weights of 15 layers are quantised by transformers (Linear of torch.ao)")
    assert aprgraph.diff(path.parent / "ours", tmp_path / "theirs", model=path).exit_code == 0


def _layer(name: str, module: str, **attributes: Any) -> Any:
    """A layer of a quantiser that is not installed, as its class shows itself."""
    kind = type(name, (torch.nn.Module,), {"__module__": module})
    layer = kind()
    for key, value in attributes.items():
        setattr(layer, key, value)
    return layer


@pytest.mark.contract("CAPTURE-TRANSFORMERS-3")
@pytest.mark.parametrize(("name", "module", "eight_bits"), [
    ("Linear4bit", "bitsandbytes.nn.modules", False), ("Linear8bitLt", "bitsandbytes.nn.modules", True),
    ("TorchQuantLinear", "gptqmodel.nn_modules.qlinear.torch", False), ("WQLinear_GEMM", "awq.modules.linear.gemm", False),
    ("HQQLinear", "hqq.core.quantize", False), ("FP8Linear", "transformers.integrations.finegrained_fp8", True),
    ("BitLinear", "transformers.integrations.bitnet", True), ("QLinear", "optimum.quanto.nn.qlinear", False),
])  # fmt: skip
def test_layers_of_quantisers_are_known_by_their_class(name: str, module: str, eight_bits: bool) -> None:
    found = ArithmeticWatch([torch.nn.Sequential(torch.nn.Linear(2, 2), _layer(name, module))]).finish()
    assert (found.quantised, found.arithmetic) == (True, "q8-activations" if eight_bits else "float32")
    assert name in found.notes[-1]


def test_schemes_and_weights_tell_as_well() -> None:
    """compressed-tensors has plain layers with a scheme, others a weight of 8 bits; a plain layer is none of them."""
    scheme = SimpleNamespace(weights=object(), input_activations=None)
    linear = torch.nn.Linear(2, 2)
    linear.quantization_scheme = scheme
    packed = torch.nn.Module()
    packed.weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float8_e4m3fn), requires_grad=False)
    for layer, arithmetic in ((linear, "float32"), (packed, "q8-activations")):
        found = ArithmeticWatch([layer]).finish()
        assert (found.quantised, found.arithmetic) == (True, arithmetic)
    assert not ArithmeticWatch([torch.nn.Linear(2, 2)]).finish().quantised


# -- models within others -----------------------------------------------------------------------------------------------


def test_a_model_without_its_head(model: Any, path: Path, tmp_path: Path) -> None:
    trace = capture(model.model, tmp_path / "theirs")
    (note,) = facts(trace)[2]
    assert note.startswith("what comes behind its last norm, logits or a pooled embedding, is not recorded: Qwen3Model has no head; ")
    assert "lm_head" not in {entry.stage for entry in trace.entries}
    assert aprgraph.diff(path.parent / "ours", tmp_path / "theirs", model=path).exit_code == 0


def test_a_model_within_another_module(model: Any, path: Path, tmp_path: Path) -> None:
    class Served(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, tokens: Any) -> Any:
            return self.inner(tokens)

    trace = capture(Served().eval(), tmp_path / "theirs")
    assert facts(trace)[2] == ["captured within Served"]
    report = aprgraph.diff(path.parent / "ours", tmp_path / "theirs")
    assert (report.exit_code, report.compared) == (0, len(trace))


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not here")
@pytest.mark.filterwarnings("ignore")
def test_adapters_take_part_and_the_manifest_says_so(model: Any, path: Path, tmp_path: Path) -> None:
    import peft

    options = {"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    capture(adapted, tmp_path / "theirs")  # PEFT's own modules are in training mode, and draw nothing without dropout
    adapted.base_model.model.model.layers[0].self_attn.q_proj.lora_dropout["default"] = torch.nn.Dropout(0.5)
    with pytest.raises(TraceError, match=r"PeftModel is in training mode, .* call model\.eval\(\) first"):
        capture(adapted, tmp_path / "theirs")
    notes = facts(capture(adapted.eval(), tmp_path / "theirs"))[2]
    assert notes[0] == "captured within PeftModel"
    assert notes[1].startswith("adapters of PEFT (lora) took part: a model file is the same model only if they were merged into it")
    report = aprgraph.diff(path.parent / "ours", tmp_path / "theirs", model=path)
    assert {key[2] for key in report.blame.wrong} == {"qkv_matmul", "ffn_out"}
    merged = capture(adapted.merge_and_unload(), tmp_path / "merged")
    again = aprgraph.diff(tmp_path / "theirs", tmp_path / "merged")
    assert (again.exit_code, facts(merged)[2]) == (0, [])


def test_compiled_models_are_refused_with_the_way_on(model: Any, tmp_path: Path) -> None:
    whole = torch.compile(model, backend="eager")
    with pytest.raises(
        UnsupportedModelError, match=r"hooks may not be called; capture the original, model\._orig_mod, and call that inside"
    ):
        aprgraph.capture.transformers(whole, tmp_path / "theirs")
    model.model.layers[1].compile(backend="eager")
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1 was compiled with compile\(\), and its hooks may not be called"):
        aprgraph.capture.transformers(model, tmp_path / "theirs")


def test_what_is_no_model_or_several(model: Any, path: Path, tmp_path: Path) -> None:
    for what, message in (
        ("a name", "str is no model of torch; write its tensors with aprgraph.Trace.write"),
        (torch.nn.Linear(2, 2), "Linear cannot be captured, expected one of LlamaForCausalLM, .*, or what is built around one"),
        (
            torch.nn.ModuleList([model, load(path).model]).eval(),
            r"ModuleList holds several models, model\.0 and model\.1; capture one of them",
        ),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            aprgraph.capture.transformers(what, tmp_path / "theirs")
