"""Traces and artifacts of a family that is not known any more: their graph is in them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.families import FAMILIES, load_family_file
from aprgraph.graph import stages
from aprgraph.graph.errors import ArtifactError, ComparisonError, ModelError, UnsupportedModelError
from aprgraph.graph.ops import OPS
from aprgraph.graph.stages import STAGE_BY_NAME, Stage, StageKind
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import rerecord
from tests.support.cli import run_cli
from tests.support.own_families import own_families

Tiny = Callable[..., Path]
TOKENS = (1, 2, 3, 4, 5)

#: A Llama with a stage of its own, whose logits are divided by a number of the file.
FILE = '''
from aprgraph.families import Llama, Stage, StageKind, real

class Mine(Llama):
    """My models (arXiv:2401.00000): logits that are divided."""

    architecture = "mymod"
    stages = ((Stage("my_logits", ("V",), StageKind.MATMUL, "logits before they are divided", per_layer=False), "lm_head"),)
    divisor = real("logit_scale", "logits_scaling", 1.0)

    def logits(self, g, x):
        return g.apply("lm_head", {op}, g.head("my_logits", x), factor=1 / self.divisor)
'''
#: The same with an op of the file's own.
OWN_OP = 'from aprgraph.families import elementwise\n\ntimes = elementwise("times", lambda m, x, *, factor: x * factor)\n'


class Known:
    """Within, the family of a file is known; without, neither it nor its stage and op."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        path.write_text(text)

    def __enter__(self) -> None:
        self._families = own_families()
        self._families.__enter__()
        load_family_file(self.path)

    def __exit__(self, *error: object) -> None:
        self._families.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with own_families():
        yield


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path / "mine.py", FILE.replace("{op}", '"scale"'))


@pytest.fixture
def with_op(tmp_path: Path) -> Known:
    return Known(tmp_path / "own.py", OWN_OP + FILE.replace("{op}", "times"))


def own_model(path: Path, model: Path) -> Path:
    path.write_bytes(model.read_bytes().replace(b"llama", b"mymod"))
    return path


@pytest.fixture
def model(tmp_path: Path, tiny_model: Tiny) -> Path:
    return own_model(tmp_path / "mine.gguf", tiny_model())


def trace(known: Known, model: Path, place: Path, taps: str = "all", layers: str = "0..2", **how: object) -> Path:
    overrides = how.pop("overrides", {})
    assert isinstance(overrides, dict)
    with known:
        compiled = aprgraph.load(model, overrides).compile("reference", place.with_suffix(".aprg"))
        compiled.run(taps, layers, tokens=TOKENS, directory=place, **how)  # type: ignore[arg-type]
    assert "mymod" not in FAMILIES
    return place


def damage(directory: Path, file: str) -> None:
    wrong = Trace.open(directory)
    (entry,) = (entry for entry in wrong if entry.file == file)
    values = np.array(wrong.load(entry))
    values.flat[-100:] = 1
    rerecord(wrong, entry, values)


@pytest.mark.contract("FAMILY-HELD-1")
@pytest.mark.parametrize("taps", ["all", "my_logits,ffn_up", "attn_softmax"])
def test_an_audit_needs_no_family(taps: str, known: Known, model: Path, tmp_path: Path) -> None:
    run = run_cli("audit", trace(known, model, tmp_path / "t", taps), "--model", model)
    assert (run.code, run.err) == (0, ""), run.out
    assert "the family 'mymod' is not known here: stages are judged by the graph that" in run.out
    assert STAGE_BY_NAME["my_logits"] == Stage("my_logits", ("V",), StageKind.MATMUL, "logits before they are divided", per_layer=False)


def test_a_wrong_stage_is_found_and_written_out(known: Known, model: Path, tmp_path: Path) -> None:
    good, bad = trace(known, model, tmp_path / "t"), tmp_path / "bad"
    bad.mkdir()
    for file in good.rglob("*"):
        if file.is_file():
            (bad / file.relative_to(good)).parent.mkdir(exist_ok=True)
            (bad / file.relative_to(good)).write_bytes(file.read_bytes())
    damage(bad, "layer-1/ffn_out.bin")
    run = run_cli("audit", bad, "--model", model, "--repro", tmp_path / "guilty")
    assert run.code == 1
    assert "WHERE  layer 1 ffn_out" in run.out
    assert (tmp_path / "guilty" / "repro.py").is_file()
    run = run_cli("diff", good, bad, "--model", model)
    assert run.code == 1
    assert "B" in run.out.partition("\n")[0]
    assert "WHERE  layer 1 ffn_out" in run.out


@pytest.mark.contract("FAMILY-HELD-1")
def test_sides_that_tapped_other_stages_are_put_together(known: Known, model: Path, tmp_path: Path) -> None:
    a = trace(known, model, tmp_path / "a", "ffn_norm,my_logits", "0..1", positions="all")
    b = trace(known, model, tmp_path / "b", "ffn_out,lm_head", "1..2")
    found = aprgraph.audit(a, model), aprgraph.audit(b, model)
    assert [one.wrong for one in found] == [(), ()]
    report = aprgraph.diff(a, b, model=model)
    assert report.blame is not None
    assert not report.blame.wrong
    theirs = trace(known, model, tmp_path / "theirs", positions="all", max_tokens=2, steps="0..2")
    manifest = json.loads((theirs / "trace.json").read_text())
    (theirs / "trace.json").write_text(json.dumps({**manifest, "graph": None}))
    report = aprgraph.diff(trace(known, model, tmp_path / "c", positions="last"), theirs, model=model)
    assert report.blame is not None
    assert (report.blame.wrong, report.exit_code) == ((), 0)
    with pytest.raises(
        UnsupportedModelError, match=r"general\.architecture is 'mymod', a family that aprgraph does not have; `.*docs/families\.md"
    ):
        aprgraph.audit(theirs, model)


@pytest.mark.contract("FAMILY-HELD-1")
def test_overrides_are_those_of_the_graph(known: Known, model: Path, tmp_path: Path) -> None:
    key, value = "mymod.logit_scale", 4.0
    plain = trace(known, model, tmp_path / "a")
    other = trace(known, model, tmp_path / "b", overrides={key: value})
    run = run_cli("audit", other, "--model", model)
    assert (run.code, run.out) == (2, "")
    assert f"its graph was built with {key} = 4.0, and no other can be built where the family is not known: give the same" in run.err
    assert run.err.rstrip().endswith("--override-kv, or --family FILE.py")
    assert run_cli("audit", other, "--model", model, "--override-kv", f"{key}=float:4").code == 0
    run = run_cli("audit", plain, "--model", model, "--override-kv", f"{key}=float:4")
    assert run.code == 2
    assert f"its graph was built without an override of {key}" in run.err
    run = run_cli("diff", plain, other, "--model", model)
    assert run.code == 2
    assert "the graphs differ at %lm_head: factor = 1.0 in A, 0.25 in B); their family is not known here" in run.err


@pytest.mark.contract("FAMILY-HELD-1")
def test_a_model_of_another_shape_is_refused(known: Known, model: Path, tmp_path: Path, tiny_model: Tiny) -> None:
    found = trace(known, model, tmp_path / "t")
    other = own_model(tmp_path / "other.gguf", tiny_model(ffn=64))
    with pytest.raises(ModelError, match=r"other\.gguf: tensor 'blk\.0\.ffn_gate\.weight' is 64 x 64, but the graph of .*t has 96 x 64"):
        aprgraph.audit(found, other)
    other = own_model(tmp_path / "other.gguf", tiny_model(layers=1))
    with pytest.raises(ModelError, match=r"tensor 'blk\.1\.\S+' of \S+.* is missing, which the graph of .*t reads; another model's\?"):
        aprgraph.audit(found, other)
    text = (found / "trace.json").read_text()
    for before, after, message in (
        ("context = 64", 'context = \\"x\\"', r"its graph says context = 'x', expected a number from 1 to"),
        ("ffn_swigl = mul", "ffn_swigl = rms_norm", r"its graph does not hold together: .*rms_norm"),
    ):
        (found / "trace.json").write_text(text.replace(before, after))
        with pytest.raises(ModelError, match=message):
            aprgraph.audit(found, model)
    (found / "trace.json").write_text(text.replace('architecture = \\"mymod', 'architecture = \\"other'))
    with pytest.raises(UnsupportedModelError, match=r"general\.architecture is 'mymod'"):
        aprgraph.audit(found, model)


def test_the_same_model_in_another_format_is_read(known: Known, model: Path, tmp_path: Path, tiny_model: Tiny) -> None:
    quantised = own_model(tmp_path / "small.gguf", tiny_model(format="Q8_0"))
    found = aprgraph.audit(trace(known, model, tmp_path / "t"), quantised)
    assert found.exit_code == 1  # other weights, and of the same shapes
    assert any("another model file" in note for note in found.notes)


@pytest.mark.contract("FAMILY-HELD-1")
@pytest.mark.parametrize("target", ["reference", "llvm"])
def test_an_artifact_runs_without_the_family(target: str, known: Known, model: Path, tmp_path: Path) -> None:
    with known:
        aprgraph.load(model, {"mymod.logit_scale": 2.0}).compile(target, tmp_path / "a.aprg")
        aprgraph.open_artifact(tmp_path / "a.aprg").run("all", "0..2", tokens=TOKENS, directory=tmp_path / "t")
    run = run_cli("run", tmp_path / "a.aprg", "--tokens", "1,2,3,4,5", "--taps", "all", "--layers", "0..2", "-o", tmp_path / "u")
    assert (run.code, run.err) == (0, "")
    for file in (tmp_path / "t").rglob("*"):
        assert file.is_dir() or file.read_bytes() == (tmp_path / "u" / file.relative_to(tmp_path / "t")).read_bytes(), file
    run = run_cli("audit", tmp_path / "u", "--model", model, "--override-kv", "mymod.logit_scale=float:2")
    assert (run.code, run.err) == (0, "")


@pytest.mark.contract("FAMILY-HELD-1")
def test_what_a_user_defined_op_needs_is_one_sentence(with_op: Known, model: Path, tmp_path: Path) -> None:
    found, artifact = trace(with_op, model, tmp_path / "t"), tmp_path / "t.aprg"
    assert "times" not in OPS
    for place, command in ((found, ("audit", found, "--model", model)), (artifact, ("run", artifact, "--tokens", "1"))):
        run = run_cli(*command)
        assert (run.code, run.out) == (2, "")
        assert run.err == (
            f"error: {place}: the op 'times' of its graph is not known; a family's file brought it, so give that file as well, with "
            "--family FILE.py\n"
        )
    with pytest.raises(ArtifactError, match=r"give that file as well, with aprgraph\.families\.load_family_file\('FILE\.py'\)"):
        aprgraph.open_artifact(artifact)
    assert run_cli("audit", found, "--model", model, "--family", with_op.path).code == 0


def test_a_graph_is_drawn_whose_ops_are_not_known(with_op: Known, model: Path, tmp_path: Path) -> None:
    found = trace(with_op, model, tmp_path / "t")
    for source in (found, tmp_path / "t.aprg"):
        run = run_cli("graph", source)
        assert (run.code, run.err) == (0, "")
        assert "%lm_head = times(%my_logits) {factor = 1.0} stage lm_head" in run.out


def test_the_script_of_a_stage_alone_takes_the_file_of_its_op(with_op: Known, model: Path, tmp_path: Path) -> None:
    found, script = trace(with_op, model, tmp_path / "t"), tmp_path / "guilty" / "repro.py"
    damage(found, "lm_head.bin")
    assert run_cli("audit", found, "--model", model, "--family", with_op.path, "--repro", script.parent).code == 1
    without, given = (
        subprocess.run([sys.executable, str(script), *files], capture_output=True, text=True, check=False)
        for files in ((), (str(with_op.path),))
    )
    assert (without.returncode, without.stdout) == (1, "")
    assert without.stderr == f"the op 'times' is not known; a family's file brought it, so give that file: python {script} FILE.py\n"
    assert given.stdout.startswith("NMSE ")
    assert given.returncode == 1


def test_two_artifacts_are_bisected_without_the_family(known: Known, model: Path, tmp_path: Path) -> None:
    with known:
        for name, factor in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
            aprgraph.load(model, {"mymod.logit_scale": factor}).compile("reference", tmp_path / f"{name}.aprg")
    options = ("--tokens", "1,2,3", "--override-kv", "mymod.logit_scale=float:1")
    run = run_cli("bisect", model, "--a", tmp_path / "a.aprg", "--b", tmp_path / "b.aprg", *options)
    assert (run.code, run.err) == (0, "")
    run = run_cli("bisect", model, "--a", "reference", "--b", tmp_path / "b.aprg", *options)
    assert (run.code, run.err) == (0, "")
    run = run_cli("bisect", model, "--a", tmp_path / "a.aprg", "--b", tmp_path / "c.aprg", *options)
    assert run.code == 2
    assert "the artifacts hold the graphs of two models" in run.err


def test_a_family_that_comes_later_declares_its_stage_anew(known: Known, model: Path, tmp_path: Path) -> None:
    found = trace(known, model, tmp_path / "t")
    aprgraph.audit(found, model)
    other = known.path.with_name("other.py")
    other.write_text(known.path.read_text().replace("before they are divided", "as the head gives them"))
    load_family_file(other)
    assert STAGE_BY_NAME["my_logits"].summary == "logits as the head gives them"
    names = [stage.name for stage in stages.STAGES]
    assert names.count("my_logits") == 1
    assert names.index("my_logits") == names.index("lm_head") - 1
    assert aprgraph.audit(found, model).exit_code == 0


def test_traces_of_two_models_are_not_put_together(known: Known, model: Path, tmp_path: Path, tiny_model: Tiny) -> None:
    other = own_model(tmp_path / "other.gguf", tiny_model(rope_base=5000.0))
    a, b = trace(known, model, tmp_path / "a"), trace(known, other, tmp_path / "b")
    with pytest.raises(ComparisonError, match=r"hold the graphs of two models \(the graphs differ at %rope_angles: base = "):
        aprgraph.diff(a, b, model=model)
