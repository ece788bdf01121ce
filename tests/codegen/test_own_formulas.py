"""Artifacts of models whose family a user's file brought, with an elementwise op of its own: the file may change, or be missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import aprgraph
from aprgraph.codegen.artifact import open_artifact
from aprgraph.codegen.cache.artifacts import cache_directory, find_beside
from aprgraph.families import load_family_file
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.model import load_model
from tests.support.own_families import own_families
from tests.support.pico import write_pico

FAMILY = """
from aprgraph.families import Llama, elementwise, real

clip = elementwise("clip", lambda m, x, *, bound: {formula})


class Pico(Llama):
    architecture = "pico"
    norm_op = "layer_norm"
    norm_weights = False
    eps = real("attention.layer_norm_epsilon", None, 1e-5)
    bound = real("attention.clamp_kqv", "clip_qkv")

    def attention(self, g, x, layer):
        return super().attention(g, g.inner("clipped", clip, x, bound=self.bound), layer)
"""
HARD, SOFT = "m.maximum(m.minimum(x, bound), -bound)", "m.tanh(x / bound) * bound"


@pytest.fixture
def known(tmp_path: Path) -> Iterator[None]:
    """The family with the formula that the tests' artifacts are compiled with."""
    yield from using(tmp_path, HARD)


def using(folder: Path, text: str, *, edited: str = "") -> Iterator[None]:
    path = folder / "family.py"
    path.write_text(FAMILY.replace("{formula}", text) + edited, encoding="utf-8")
    with own_families():
        load_family_file(path)
        yield


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    model = write_pico(folder / "pico.gguf")
    for _ in using(folder, HARD):
        aprgraph.load(model).compile("llvm", folder / "pico.llvm.aprg")
    return folder / "pico.llvm.aprg"


@pytest.mark.usefixtures("known")
def test_it_is_opened_where_the_formula_is_the_same(artifact: Path) -> None:
    assert any(symbol.startswith("clip_") for symbol in open_artifact(artifact).kernels)


def test_without_the_family_it_says_what_is_missing(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"the op 'clip' of its graph is not known; a family's file brought it, so give that file"):
        open_artifact(artifact)


@pytest.mark.contract("FORMULAS-NAMES-1")
def test_its_kernels_are_not_taken_for_those_of_another_formula(artifact: Path, tmp_path: Path) -> None:
    for _ in using(tmp_path, SOFT):
        with pytest.raises(ArtifactError, match=r"compiled with another formula of the op 'clip'; compile the model again"):
            open_artifact(artifact)
        assert find_beside(load_model(artifact.with_name("pico.gguf")), "llvm", None) is None


def test_a_file_that_builds_another_graph_has_another_place_in_the_cache(tmp_path: Path) -> None:
    places, model = set(), write_pico(tmp_path / "pico.gguf")
    doubled = "    def logits(self, g, x):\n        return g.apply('lm_head', 'scale', g.head('lm_head_raw', x), factor=2.0)\n"
    for text, edited in ((HARD, ""), (HARD, "# a remark\n"), (HARD, doubled)):
        for _ in using(tmp_path, text, edited=edited):
            places.add(cache_directory(load_model(model), "llvm", None, tmp_path))
    assert len(places) == 2
