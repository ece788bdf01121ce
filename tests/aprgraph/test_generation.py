"""Generating text: `aprgraph run --max-tokens`, from a prompt, a chat, or files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.api import CompiledModel, load
from aprgraph.graph.errors import PlanError, TokenError, TraceError
from aprgraph.runtime.prompts import end_tokens_of
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import fails, files_under, run_cli, run_process
from tests.support.compiled import compiled, shared_model
from tests.support.golden import golden_json
from tests.support.models import require_smollm2

CHAT = "What is 2+2?"


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[..., Path]) -> CompiledModel:
    return compiled(shared_model(tiny_model))


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return compiled(require_smollm2()).artifact.directory


def printed(*arguments: object) -> dict[str, Any]:
    result = run_cli("run", *arguments, "--json")
    assert (result.code, result.err) == (0, "")
    document: dict[str, Any] = json.loads(result.out)
    return document


# -- a real model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 10])
def test_a_chat_gives_the_ids_of_llama_cpp_in_full_precision(smollm2: Path, chunk: int | None) -> None:
    golden = golden_json("smollm2_generation.json")
    found = printed(smollm2, "--chat", "--prompt", CHAT, "--max-tokens", 40, *(() if chunk is None else ("--prefill-chunk", chunk)))
    assert found["tokens"] == golden["prompt"]
    assert found["generated"] == golden["generated"]
    assert (found["ended_by"], found["text"]) == ("an end token", "The answer to this classic math problem is 4.")
    assert min(golden["leads"]) > 0.05, "a choice this close would not be a check"


def test_text_comes_on_standard_output_and_what_ended_it_on_the_other(smollm2: Path, tmp_path: Path) -> None:
    result = run_process("run", smollm2, "--chat", "--prompt", CHAT, "--system", "Answer in French.", "-n", 3, cwd=tmp_path)
    assert result.code == 0
    assert result.err == "3 tokens, ended by the number of tokens\n"
    assert len(result.out.splitlines()) == 1
    assert not files_under(tmp_path)


def test_a_system_message_changes_the_prompt(smollm2: Path) -> None:
    prompts = [printed(smollm2, "--chat", "--prompt", CHAT, *more, "-n", 1)["tokens"] for more in ((), ("--system", "Be brief."))]
    assert prompts[0] != prompts[1]


# -- tiny models --------------------------------------------------------------------------------------------------------


@pytest.mark.contract("PLAN-PROMPT-1")
def test_without_a_prompt_a_chat_model_is_asked_and_a_text_that_ends_at_once_is_said(smollm2: Path) -> None:
    asked = run_cli("run", smollm2, "-n", 2, "--json")
    assert json.loads(asked.out)["tokens"] == golden_json("smollm2_generation.json")["prompt"]
    assert asked.err == "note: no prompt is given: 'What is 2+2?' goes through the model's chat template; --prompt runs a text as it is\n"
    raw = run_cli("run", smollm2, "-n", 2, "--json", "--prompt", CHAT)
    assert len(json.loads(raw.out)["generated"]) == 1
    assert raw.err == "note: the model ended the text at once: it was trained on chats; --chat puts the prompt through its template\n"
    told = "note: the next token ends this raw text: the model was trained on chats; --chat puts the prompt through its template\n"
    for more in ((), ("--prompt", CHAT), ("--positions", "all", "--json")):
        assert run_cli("run", smollm2, *more).err == told
    assert run_cli("run", smollm2, "--chat").err == run_cli("run", smollm2, "--prompt", "Once upon a").err == ""


@pytest.mark.contract("PLAN-PROMPT-1")
def test_a_template_that_does_not_work_leaves_the_default_raw(tiny_model: Callable[..., Path]) -> None:
    override = "tokenizer.chat_template=str:{{ raise_exception('no') }}"
    done = run_cli("run", tiny_model(), "--target", "reference", "-n", 1, "--json", "--override-kv", override)
    assert (done.code, "chat template" in done.err) == (0, False), done.err


def test_a_trace_of_chosen_steps(tiny: CompiledModel, tmp_path: Path) -> None:
    found = printed(
        tiny.artifact.directory, "--tokens", "5,6,7", "-n", 4, "--taps", "attn_scores,lm_head", "--layers", 0,
        "--steps", "1..3", "-o", tmp_path / "t",
    )  # fmt: skip
    assert {row["file"] for row in found["tensors"]} == {
        f"step-{step}/{name}" for step in (1, 2) for name in ("layer-0/attn_scores.bin", "lm_head.bin")
    }
    assert [row["shape"] for row in found["tensors"] if row["stage"] == "attn_scores"] == [[4, 1, 4], [4, 1, 5]]
    assert {row["step"] for row in found["tensors"]} == {1, 2}
    assert len(found["generated"]) == 4
    trace = Trace.open(tmp_path / "t")
    assert trace.info is not None
    assert trace.info.extra["generated"] == found["generated"]
    assert int(trace.tensor("lm_head", None, 2).argmax()) == found["generated"][2]


def test_a_trace_tells_what_was_generated(tiny: CompiledModel, tmp_path: Path) -> None:
    trace = tiny.run("ffn_up", tokens=[5, 6], directory=tmp_path / "t", max_tokens=3, steps="1..2")
    assert trace.info is not None
    shown = json.loads(run_cli("inspect", tmp_path / "t", "--json").out)
    assert shown["generated"] == trace.info.extra["generated"]
    assert list(shown["tensors"]) == ["step 1 layer 0 ffn_up"]


def test_the_announcement_counts_every_step(tiny: CompiledModel, tmp_path: Path) -> None:
    result = run_cli(
        "run", tiny.artifact.directory, "--tokens", "5,6", "-n", 3, "--taps", "ffn_up", "--steps", "0..3", "-o", tmp_path / "t"
    )
    assert result.code == 0
    assert result.out.startswith("3 tensors, ")
    plan_bytes = sum(len(raw) for name, raw in files_under(tmp_path / "t").items() if name.endswith(".bin"))
    assert plan_bytes == 3 * 12 + 4 * 96 * (2 + 1 + 1)


def test_a_text_that_ends_early_leaves_the_steps_that_there_were(tiny: CompiledModel, tmp_path: Path) -> None:
    free = tiny.generate(5, tokens=[5, 6, 7])
    ended = CompiledModel(tiny.artifact, load(tiny.model.path, {"tokenizer.ggml.eos_token_id": free[2]}).model)
    assert free[2] in end_tokens_of(ended.model)
    assert ended.generate(5, tokens=[5, 6, 7]) == free[: free.index(free[2]) + 1]
    trace = ended.run("ffn_up", tokens=[5, 6, 7], directory=tmp_path / "t", max_tokens=5, steps="1..5")
    assert {entry.step for entry in trace.entries} == set(range(1, free.index(free[2]) + 1))
    with pytest.raises(
        TraceError, match=rf"the text ended at step {free.index(free[2])}, before step 4, the first of steps=: nothing was recorded"
    ):
        ended.run("ffn_up", tokens=[5, 6, 7], directory=tmp_path / "none", max_tokens=5, steps="4..5")
    assert not (tmp_path / "none").exists()


def test_a_text_ends_where_the_context_does(tiny: CompiledModel) -> None:
    context = tiny.model.family.context
    assert len(tiny.generate(100, tokens=[1] * (context - 2))) == 3
    assert len(tiny.generate(100, tokens=[1] * context)) == 1


def test_callbacks_get_each_token_as_it_comes(tiny: CompiledModel) -> None:
    seen: list[int] = []
    assert tiny.generate(4, tokens=[9], on_token=seen.append) == tuple(seen)


def test_a_vocabulary_without_a_tokenizer_prints_ids(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = compiled(tiny_model(layers=1, tokenizer=False), "reference")
    result = run_cli("run", model.artifact.directory, "--model", model.model.path, "--tokens", "1,2", "-n", 3)
    assert (result.code, result.err) == (0, "3 tokens, ended by the number of tokens\n")
    assert result.out.split() == [str(token) for token in model.generate(3, tokens=[1, 2])]


# -- prompts from files -------------------------------------------------------------------------------------------------


def test_prompts_and_tokens_from_files(tiny: CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("hello world\n")
    (tmp_path / "tokens.txt").write_text("5, 6\n7\n")
    place = tiny.artifact.directory
    assert printed(place, "--prompt-file", tmp_path / "prompt.txt")["tokens"] == tiny.encode("hello world")
    assert printed(place, "--tokens-file", tmp_path / "tokens.txt")["tokens"] == [5, 6, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "a", "--tokens", "1"), "--prompt and --tokens exclude each other; give one of them"),
        (("--prompt-file", "a", "--tokens-file", "b"), "--prompt-file and --tokens-file exclude each other"),
        (("--system", "a"), "--system goes with --chat; add --chat"),
        (("--chat", "--tokens", "1,2"), "--chat puts a text through the model's template, and --tokens gives token ids"),
        (("--prompt-file", "no.txt"), "no.txt"),
        (("--tokens-file", "no.txt"), "no.txt"),
        (("--steps", "0-3"), "--steps '0-3': expected START..END with two whole numbers, END exclusive"),
        (("--steps", "2..2"), "--steps '2..2': no step in it; END is exclusive"),
        (("--steps", "1..3"), "--steps says which steps the taps record; add --taps LIST or --taps all"),
        (("--steps", "1..3", "--taps", "all"), "--steps 1..3: nothing is generated without --max-tokens, so the run has the steps 0..1"),
        (("--steps", "1..9", "--taps", "all", "-n", "4"), "--steps 1..9: 4 tokens are generated, so the run has the steps 0..4"),
        (("-n", "-1"), "max tokens -1: expected a number of tokens to generate, at least 0"),
        (("--prefill-chunk", "0"), "prefill chunk 0: expected a number of positions, at least 1"),
    ],
)
def test_bad_options(tiny: CompiledModel, arguments: tuple[str, ...], message: str) -> None:
    assert message in fails("run", tiny.artifact.directory, *arguments)


def test_a_chat_with_a_model_that_has_no_template(tiny: CompiledModel) -> None:
    assert "tokenizer.chat_template" in fails("run", tiny.artifact.directory, "--chat", "--prompt", "hello")


def test_the_api_refuses_the_same(tiny: CompiledModel) -> None:
    with pytest.raises(TokenError, match="prompt and tokens exclude each other"):
        tiny.generate(1, prompt="a", tokens=[1])
    with pytest.raises(PlanError, match=r"steps 3\.\.3|no step in it"):
        tiny.run("all", tokens=[1], max_tokens=4, steps="3..3")


# -- block formats that only the gguf package decodes ---------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen3moe"])
def test_a_format_that_no_kernel_decodes_is_announced_and_traced(family: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_model(family=family, format="IQ2_XS", layers=1)
    found = load(path).compile("llvm", tmp_path / "m.aprg")
    result = run_cli("run", found.artifact.directory, "--taps", "all", "-o", tmp_path / "a")
    assert result.code == 0
    assert result.err.startswith("note: ")
    assert "weights of type IQ2_XS are decoded in memory by the gguf package" in result.err
    load(path).compile("reference", tmp_path / "r.aprg").run("all", directory=tmp_path / "b")
    diff = run_cli("diff", tmp_path / "a", tmp_path / "b")
    assert diff.code == 0, diff.out
    assert np.isfinite(Trace.open(tmp_path / "a").tensor("lm_head")).all()
