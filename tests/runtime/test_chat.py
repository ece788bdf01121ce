"""Chat templates: what they make of messages, and what is said when they cannot."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aprgraph.graph.errors import ModelError, TokenError
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.chat import chat_messages, render_chat
from aprgraph.runtime.tokenizer import load_tokenizer
from tests.runtime.test_tokenizer import Values, byte_pair
from tests.support.models import require_smollm2

# The templates of Gemma 2 and 3 and of Llama 3.2, as far as text goes.
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}{{ raise_exception("no tools were given") }}{% endif %}
{{- "Today Date: " + date_string + "\n\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
"""


def with_template(template: object, **others: object) -> Metadata:
    values = {"tokenizer.chat_template": template, **others}
    return Metadata(Path("chat.gguf"), {key: value for key, value in values.items() if value is not None})


def rendered(template: str, prompt: str = "hi", system: str | None = None) -> str:
    return render_chat(with_template(template), chat_messages(prompt, system))


# -- models' own templates -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Metadata:
    return GGUFFile(require_smollm2()).metadata


def test_smollm2_puts_its_own_system_message_first(smollm2: Metadata) -> None:
    assert render_chat(smollm2, chat_messages("What is 2+2?")) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_smollm2_with_a_system_message(smollm2: Metadata) -> None:
    text = render_chat(smollm2, chat_messages("What is 2+2?", "Be brief."))
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    ids = load_tokenizer(smollm2).encode_chat(text)
    assert (ids[:3], ids[-4:]) == ([1, 9690, 198], [1, 520, 9531, 198])


def test_smollm2_without_the_answer_s_beginning(smollm2: Metadata) -> None:
    text = render_chat(smollm2, chat_messages("hi", ""), add_generation_prompt=False)
    assert text == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"


def test_gemma() -> None:
    messages = [*chat_messages(" hi \n"), {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "2+2?"}]
    metadata = byte_pair(add_bos_token=True).with_overrides({"tokenizer.chat_template": GEMMA})
    text = render_chat(metadata, messages)
    assert text == (
        "<s><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert load_tokenizer(metadata).encode_chat(text).count(259) == 1


def test_llama_3() -> None:
    metadata = byte_pair().with_overrides({"tokenizer.chat_template": LLAMA3})
    before = time.strftime("%d %b %Y")
    text = render_chat(metadata, chat_messages("hi", "Be brief."))
    assert text in {
        f"<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: {date}\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        for date in (before, time.strftime("%d %b %Y"))
    }


# -- the environment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("template", "text"), [
    ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),  # trim_blocks and lstrip_blocks
    ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
    ("{% generation %}\n{{ messages[0].content }}{% endgeneration %}", "hi"),
    ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
    ("{{ '<é> & \\'' | tojson }}", '"<é> & \'"'),
    ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
    ("{{ tools is none and documents is none }} {{ bos_token is defined }} {{ enable_thinking is defined }}", "True False False"),
    ("{{ missing }}", ""),
])  # fmt: skip
def test_the_environment_is_the_one_of_transformers(template: str, text: str) -> None:
    assert rendered(template) == text


def test_any_text_comes_through() -> None:
    prompt = "\x00\x1b \u2028 é 😀 {{ messages }} {% raw %} \ud800"
    assert rendered("{{ messages[0].content }}", prompt) == prompt


def test_templates_see_the_special_tokens_that_the_file_names() -> None:
    metadata = byte_pair(padding_token_id=0).with_overrides(
        {"tokenizer.chat_template": "{{ bos_token }} {{ eos_token }} {{ pad_token }} {{ unk_token is defined }}"}
    )
    assert render_chat(metadata, []) == "<s> </s> ! False"


# -- templates that fail -------------------------------------------------------------------------------------------------


def test_a_file_without_a_template() -> None:
    with pytest.raises(TokenError, match=r"chat\.gguf: the model has no chat template.*'tokenizer\.chat_template'; .* prompt="):
        render_chat(with_template(None), chat_messages("hi"))


def test_a_file_with_templates_for_special_uses_only() -> None:
    metadata = with_template(None, **{"tokenizer.chat_template.tool_use": "x", "tokenizer.chat_template.rag": "y"})
    with pytest.raises(TokenError, match=r"no chat template.*\(there are others, for special uses: 'rag, tool_use'\)"):
        render_chat(metadata, chat_messages("hi"))


def test_a_template_that_is_no_text() -> None:
    with pytest.raises(ModelError, match="'tokenizer.chat_template' is 3, expected text"):
        render_chat(with_template(3), chat_messages("hi"))


def test_special_tokens_that_do_not_exist() -> None:
    for change in ({"bos_token_id": 261}, {"tokens": Values([b"\xff"] * 261)}):
        with pytest.raises(ModelError, match="bos_token_id is 261|element 259 of tokenizer.ggml.tokens is not valid UTF-8"):
            render_chat(byte_pair(**change).with_overrides({"tokenizer.chat_template": "x"}), [])


@pytest.mark.parametrize(("template", "message"), [
    (GEMMA, "in line 1 of the template: System role not supported; change the messages, or write"),
    ("\n\n{% if %}", "in line 3 of the template: syntax error: Expected an expression"),
    ("{% for m in messages %}", "syntax error: Unexpected end of template"),
    ("\n{{ messages.foo.bar }}", "in line 2 of the template: 'list object' has no attribute 'foo'"),
    ("{{ messages[0].content.nonesuch() }}", "'str object' has no attribute 'nonesuch'"),
    ("{{ messages[0].content + 1 }}", "in line 1 of the template: TypeError: can only concatenate"),
    ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
    ("{{ messages | nonesuch }}", "syntax error: No filter named 'nonesuch'"),
    ("{% include 'other' %}", "no loader for this environment"),
    ("{{ raise_exception('one\ntwo\n' ~ 'x' * 10000) }}", "one two xxx.*x…; change"),
    ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__' of 'str' object is unsafe"),
    ("{{ raise_exception.__globals__.os }}", "access to attribute '__globals__' of 'function' object is unsafe"),
])  # fmt: skip
def test_a_template_that_fails_is_one_error(template: str, message: str) -> None:
    with pytest.raises(TokenError, match=message) as error:
        rendered(template, system="Be brief.")
    assert str(error.value).startswith("chat.gguf: tokenizer.chat_template cannot be applied")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_gemma_refuses_two_messages_of_the_user() -> None:
    with pytest.raises(TokenError, match="in line 4 of the template: Conversation roles must alternate"):
        render_chat(with_template(GEMMA), [*chat_messages("a"), *chat_messages("b")])


def test_messages_that_json_cannot_hold() -> None:
    with pytest.raises(TokenError, match="the messages hold what JSON cannot: Object of type set is not JSON serializable"):
        render_chat(with_template("x"), [{"role": "user", "content": {1}}])
