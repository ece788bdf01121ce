"""Families that are not in the package: from a file, a call, or an installed package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import aprgraph
from aprgraph.families import FAMILIES, Llama, Qwen3, Stage, StageKind, load_family_file
from aprgraph.graph import stages
from aprgraph.graph.errors import AprgraphError, ModelError, UnsupportedModelError
from aprgraph.graph.families import registry
from aprgraph.graph.families.registry import load_installed_families
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.outline import small_outline
from aprgraph.graph.tap_plan import parse_plan
from tests.support.cli import run_cli
from tests.support.own_families import own_families

Tiny = Callable[..., Path]

#: A Llama whose last norm is a stage of its own, and whose logits are made smaller.
FILE = '''
from aprgraph.families import Llama, Stage, StageKind, real

class Mine(Llama):
    """My models (arXiv:2401.00000): logits that are divided."""

    architecture = "mymod"
    stages = ((Stage("my_logits", ("V",), StageKind.MATMUL, "logits before they are divided", per_layer=False), "lm_head"),)
    divisor = real("logit_scale", "logits_scaling", 1.0)

    def logits(self, g, x):
        return g.apply("lm_head", "silu", g.head("my_logits", x))
'''


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with own_families():
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def model(tmp_path: Path, tiny_model: Tiny) -> Path:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_model().read_bytes().replace(b"llama", b"mymod"))
    return path


@pytest.mark.contract("FAMILY-FILES-1")
def test_a_family_from_a_file_builds_graphs_with_a_stage_of_its_own(file: Path, model: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"general\.architecture is 'mymod', a family that aprgraph does not have; `.*docs/families\.md"
    ):
        load_model(model)
    assert [family.__name__ for family in load_family_file(file)] == ["Mine"]
    graph = build_graph(load_model(model))
    assert graph.operand_names("lm_head") == ("my_logits",)
    names = [stage.name for stage in stages.STAGES]
    assert names.index("my_logits") == names.index("lm_head") - 1
    assert parse_plan("lm_head,my_logits", "0..1").stages == ("my_logits", "lm_head")


def test_a_file_may_be_loaded_twice(file: Path, tmp_path: Path) -> None:
    (first,) = load_family_file(file)
    assert load_family_file(str(file)) == [first]
    copy = tmp_path / "copy.py"
    copy.write_text(FILE)
    assert load_family_file(copy) == [first]


@pytest.mark.contract("FAMILY-FILES-1")
def test_two_families_of_one_architecture_are_an_error_that_names_both(file: Path, tmp_path: Path) -> None:
    load_family_file(file)
    other = tmp_path / "other.py"
    other.write_text(FILE.replace("class Mine", "class Yours"))
    with pytest.raises(AprgraphError, match=r"two families have the architecture 'mymod': Mine \(.*mine\.py\) and Yours \(.*other\.py\)"):
        load_family_file(other)
    with pytest.raises(AprgraphError, match=r"'llama': Llama \(.*llama\.py\) and Llama \(.*test_family_files\.py\)"):
        aprgraph.register(type("Llama", (Qwen3,), {"architecture": "llama", "__module__": __name__}))


@pytest.mark.contract("FAMILY-FILES-1")
def test_a_class_is_registered_by_a_call_or_as_a_decorator(model: Path) -> None:
    @aprgraph.register
    class Mine(Llama):
        architecture = "mymod"

    assert FAMILIES["mymod"] is Mine
    assert build_graph(load_model(model)).attrs["architecture"] == "mymod"


def test_a_class_without_an_architecture_is_refused() -> None:
    class Nameless(aprgraph.families.Decoder):
        pass

    with pytest.raises(AprgraphError, match=r"test_family_files\.py: the family Nameless names no architecture; expected such as"):
        aprgraph.register(Nameless)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"broken\.py: declares no family; expected a class that derives from"),
        ("from aprgraph.families import Llama\n", r"broken\.py: declares no family"),
        ("def f(:\n", r"broken\.py:1: SyntaxError: "),
        ("x = 1\ny = x / 0\n", r"broken\.py:2: ZeroDivisionError: division by zero; the family's file could not be run"),
        ("from aprgraph.families import Nothing\n", r"broken\.py:1: ImportError: cannot import name 'Nothing'"),
        (FILE.replace('"my_logits", ("V",)', '"Logits!", ("V",)'), r"the stage 'Logits!': expected a name of small letters"),
        (FILE.replace('"my_logits", ("V",)', '"attn_out", ("V",)'), r"the stage 'attn_out' is there already and is another"),
        (
            FILE.replace('per_layer=False), "lm_head"', 'per_layer=False), "nowhere"'),
            r"'my_logits' is to come before 'nowhere', which is no",
        ),
    ],
)
@pytest.mark.contract("FAMILY-FILES-1")
def test_a_broken_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(AprgraphError, match=message):
        load_family_file(path)
    assert "mymod" not in FAMILIES
    run = run_cli("models", "--family", path)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)


#: A Llama whose feed-forward network is the body of the method.
NETWORK = """
from aprgraph.families import Llama, number

class Mine(Llama):
    architecture = "mymod"

    def feed_forward(self, g, x, layer):
        up = g.linear("ffn_up", x, self.ffn[layer])
        {}
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return up.nothing", r"mine\.py:9: AttributeError: 'str' object has no attribute 'nothing'; the family Mine could not build"),
        ("pass", r"mine\.py: %layer0\.post_ffn_residual: an operand is None, expected the name of a node"),
        ("return g.linear('ffn_outt', up, self.hidden)", r"mine\.py:9: there is no stage 'ffn_outt' \(did you mean 'ffn_out'\?\)"),
        ("return g.apply('ffn_silu', 'siluu', up)", r"mine\.py:9: %layer0\.ffn_silu: there is no op 'siluu'; expected one of input, "),
        ("return g.apply('ffn_silu', 'silu', up, cap=1.0)", r"mine\.py:9: %layer0\.ffn_silu: silu has the attributes \['cap'\], exp"),
        ("return g.apply('moe_router', 'top_k', up)", r"mine\.py:9: %layer0\.moe_router: top_k has the attributes \[\], expected k"),
        ("return g.apply('ffn_swigl', 'mul', up)", r"mine\.py:9: %layer0\.ffn_swigl: mul has 1 operands, expected \(a, b\)"),
        ("return g.add('ffn_out', up, x)", r"mine\.py:9: %layer0\.ffn_out: operands differ: "),
        ("return g.add('ffn_out', x, 'nowhere')", r"mine\.py:9: %layer0\.ffn_out: no node %nowhere in graph"),
        ("return x\n    def graph(self, g): super().graph(g)", r"mine\.py: graph\(\) returned None, expected the name of the node"),
        ("return x\n    def check(self): self.nothing", r"mine\.py:10: AttributeError: 'Mine' object has no attribute 'nothing'"),
        ("return x\n    extra = number('some', None, 'seven')", r"'mymod\.some' is missing, and its default is 'seven', expected a whole"),
    ],
)
@pytest.mark.contract("FAMILY-FILES-1")
def test_a_mistake_in_a_familys_methods_is_one_sentence_with_its_line(body: str, message: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(NETWORK.format(body))
    load_family_file(path)
    with pytest.raises(AprgraphError, match=message):
        build_graph(load_model(model))


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("hf_classes = ['A', 'B']", r"mine\.py: in the family Mine, hf_classes is \['A', 'B'\], expected text"),
        ("gguf_names = ['ffn_up']", r"mine\.py: in the family Mine, gguf_names is \['ffn_up'\], expected a dict"),
        ("pairing = 'quarters'", r"mine\.py: in the family Mine, pairing is 'quarters', expected one of interleaved, halves"),
        ("stages = 'mine'", r"mine\.py: in the family Mine, stages is 'mine', expected pairs of a Stage and the name of the stage that"),
        ("stages = ((Stage('mine', ('n', 'Q'), StageKind.NORM, ''), 'ffn_up'),)", r"'mine' has the dims \('n', 'Q'\), expected letters"),
        ("stages = ((Stage('mine', ('n',), StageKind.NORM, '', ('no',)), 'ffn_up'),)", r"mine\.py: the stage 'mine' reads 'no', which"),
    ],
)
@pytest.mark.contract("FAMILY-FILES-1")
def test_a_declaration_of_another_type_is_refused(declaration: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"from aprgraph.families import Llama, Stage, StageKind\nclass Mine(Llama):\n    architecture = 'mymod'\n    {declaration}\n"
    )
    with pytest.raises(AprgraphError, match=message):
        load_family_file(path)
    assert "mymod" not in FAMILIES


#: Lines 2 to 8 of a file: a family, and what is misspelt in it.
MISSPELT = """
from aprgraph.families import Llama, number
class Mine(Llama):
    architecture = 'mymod'

    {}
"""


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (
            "def atention(self, g, x, layer): return x",
            r"mine\.py:6: atention of the family Mine overrides nothing, and .*; was attention meant\?",
        ),
        ("pairng = 'interleaved'", r"mine\.py:6: pairng of the family Mine overrides nothing, and nothing uses it; was pairing meant\?"),
        ("kv_head = number('attention.head_count_kv')", r"mine\.py:6: kv_head of the family Mine .*; was kv_heads meant\?"),
        ("hf_clases = 'MineForCausalLM'", r"mine\.py:6: hf_clases of the family Mine .*; was hf_classes meant\?"),
        ("gguf_name = {'ffn_norm': 'norm'}", r"mine\.py:6: gguf_name of the family Mine is \{'ffn_norm': 'norm'\}, expected a method"),
    ],
)
@pytest.mark.contract("FAMILY-FILES-1")
def test_a_misspelt_attribute_is_refused(declaration: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MISSPELT.format(declaration))
    with pytest.raises(AprgraphError, match=message):
        load_family_file(path)
    assert "mymod" not in FAMILIES


def test_a_misspelt_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from aprgraph.families import Llama\nclass Mine(Llama):\n    architecure = 'mymod'\n")
    with pytest.raises(AprgraphError, match=r"mine\.py:3: architecure of the family Mine .*; was architecture meant\?"):
        load_family_file(path)


@pytest.mark.parametrize(
    "declaration",
    [
        "def atention(self, g, x, layer): return x\n    def attention(self, g, x, layer): return self.atention(g, x, layer)",
        "def attention_(self, g, x, layer): return x\n    def attention(self, g, x, layer): return x",
        "my_number = number('some.key', None, 1)",
        "_pairng = 1",
    ],
)
def test_what_is_used_or_is_like_nothing_is_no_misspelling(declaration: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MISSPELT.format(declaration))
    assert [family.__name__ for family in load_family_file(path)] == ["Mine"]


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (
            "gguf_names = {'ffn_nrm': 'post_norm'}",
            r"mine\.py:6: gguf_names of the family Mine names the slot 'ffn_nrm', which .*; was 'ffn_norm'",
        ),
        (
            "hf_names = {'attn_nrom': 'ln'}",
            r"mine\.py:6: hf_names of the family Mine names the slot 'attn_nrom', which .*; was 'attn_norm'",
        ),
        ("gguf_names = hf_names = {'lm_haed': 'head'}", r"mine\.py:6: gguf_names of the family Mine names the slot 'lm_haed', which"),
    ],
)
@pytest.mark.contract("FAMILY-FILES-1")
def test_a_misspelt_slot_is_refused(declaration: str, message: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MISSPELT.format(declaration))
    (mine,) = load_family_file(path)
    with pytest.raises(AprgraphError, match=message):
        small_outline(mine)
    with pytest.raises(AprgraphError, match=message):
        build_graph(load_model(model))


@pytest.mark.parametrize(
    "declaration",
    [
        "gguf_names = {'shared_gate': 'x', 'moe_expert_up': 'y'}",  # of models that have experts
        "gguf_names = {'attn_norm_b': 'x'}\n    def check(self):\n        if self.layers > 9: self.has_also = 'attn_norm_b'",
        "hf_names = {'something': 'else'}",
    ],
)
def test_slots_of_other_models_of_the_family_are_no_misspelling(declaration: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MISSPELT.format(declaration))
    (mine,) = load_family_file(path)
    small_outline(mine)
    build_graph(load_model(model))


@pytest.mark.contract("FAMILY-FILES-1")
def test_two_families_of_one_class_of_transformers_are_an_error_that_names_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MISSPELT.format("hf_classes = 'MineForCausalLM MistralForCausalLM'"))
    with pytest.raises(
        AprgraphError,
        match=r"two families compute the class 'MistralForCausalLM' of transformers: Llama \(.*llama\.py\) and Mine \(.*mine\.py\); expected",
    ):
        load_family_file(path)
    assert "mymod" not in FAMILIES


def test_a_file_is_run_as_it_is_now_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("mine.family")
    path.write_text(FILE)
    (first,) = load_family_file(path)
    FAMILIES.pop("mymod")
    path.write_text(FILE.replace("class Mine", "class Ours"))  # of the same size, in the same second
    (second,) = load_family_file(path)
    assert (first.__name__, second.__name__) == ("Mine", "Ours")
    assert list(tmp_path.iterdir()) == [tmp_path / path]  # no compiled code beside it
    path.write_text("x = 1\ny = x / 0\n")
    with pytest.raises(AprgraphError, match=r"mine\.family:2: ZeroDivisionError"):
        load_family_file(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AprgraphError, match=r"none\.py: No such file or directory; expected a Python file that declares a family"):
        load_family_file(tmp_path / "none.py")


def test_the_command_line_takes_a_family(file: Path, model: Path, tmp_path: Path) -> None:
    assert "My models" in run_cli("models", "--family", file).out
    run = run_cli(
        "run", model, "--family", file, "--tokens", "1,2,3", "--target", "reference", "--taps", "my_logits,lm_head", "-o", tmp_path / "t"
    )
    assert (run.code, run.err) == (0, "")
    trace = aprgraph.Trace.open(tmp_path / "t")
    logits = trace.tensor("my_logits")
    assert trace.tensor("lm_head") == pytest.approx(logits / (1 + 2.718281828**-logits), rel=1e-5)


def test_a_family_with_numbers_that_no_small_model_has_is_listed_with_the_stages_that_it_declares(file: Path) -> None:
    file.write_text(FILE.replace('"logits_scaling", 1.0', '"logits_scaling"'))
    shown = run_cli("models", "mymod", "--family", file).out
    assert re.search(
        r"models +My models\ndescribed in +arXiv:2401\.00000\nwhat sets it apart +logits that are divided\n.* my_logits\n", shown
    )
    with pytest.raises(ModelError, match=r"no small number is known for logit_scale, which the family Mine must have; give small_outline"):
        small_outline(FAMILIES["mymod"])
    assert small_outline(FAMILIES["mymod"], logit_scale=2.0).graph.operand_names("lm_head") == ("my_logits",)


class _EntryPoint:
    """As of an installed package."""

    name, value, dist = "mine", "their_package:Mine", None

    def __init__(self, family: object) -> None:
        self.family = family

    def load(self) -> object:
        if isinstance(self.family, Exception):
            raise self.family
        return self.family


@pytest.mark.contract("FAMILY-FILES-1")
def test_an_installed_packages_families_are_found_when_a_file_asks_for_them(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type("Mine", (Llama,), {"architecture": "mymod"})
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [_EntryPoint(mine)] * (group == "aprgraph.families"))
    assert build_graph(load_model(model)).attrs["architecture"] == "mymod"
    load_installed_families()  # once more does nothing


def test_an_installed_packages_families_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type("Mine", (Llama,), {"architecture": "mymod", "__doc__": "My models (arXiv:2401.00000): nothing."})
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [_EntryPoint(mine)] * (group == "aprgraph.families"))
    assert "mymod" not in run_cli("models", "--markdown").out
    assert "mymod" in run_cli("models").out


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            ImportError("no such thing"),
            r"brings the family mine \(their_package:Mine\), which cannot be loaded: ImportError: no such thing",
        ),
        (Llama.__init__, r"brings the family mine, but their_package:Mine is no class that derives from aprgraph\.families\.Family"),
    ],
)
def test_a_broken_package_is_named(family: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [_EntryPoint(family)])
    with pytest.raises(AprgraphError, match=message):
        load_installed_families()


def test_a_stage_that_is_added_again_is_the_same() -> None:
    stage = Stage("after_all", ("V",), StageKind.MATMUL, "something", per_layer=False)
    stages.add_stage(stage, "lm_head")
    stages.add_stage(stage, "final_norm")
    assert [each.name for each in stages.STAGES].count("after_all") == 1
