"""Loads the golden numbers, which an independent implementation computed (tests/golden/README.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import aprgraph

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FAMILIES = GOLDEN / "families"
F32 = npt.NDArray[np.float32]
#: (layer or None, stage)
StageKey = tuple[int | None, str]


#: The project's promise is 1e-9. float32 in any order of summation stays far below this; a wrong kernel does not.
TOLERANCE = 1e-11
#: Golden numbers that are off themselves: transformers computes norms and routers in float32 (tests/golden/README.md: 7e-12).
_TOLERANCES = {"jamba-f32": 4e-11}


@dataclass(frozen=True)
class GoldenModel:
    """A tiny model, and every stage of a prefill of ``tokens``: f32 in the shapes of the stage table."""

    name: str
    path: Path
    tokens: tuple[int, ...]
    stages: Mapping[StageKey, F32]

    @property
    def tolerance(self) -> float:
        """How far a stage computed in float32 may be from these numbers, as NMSE."""
        return _TOLERANCES.get(self.name, TOLERANCE)


@dataclass(frozen=True)
class StageSample:
    """Some elements of a stage: ``indices`` into the flat tensor, ``values`` f32 of the same length, and the whole tensor's RMS."""

    indices: npt.NDArray[np.int64]
    values: F32
    rms: float

    def nmse(self, actual: npt.NDArray[Any]) -> float:
        """Mean square error of the sampled elements of ``actual``, the whole tensor, relative to its mean square."""
        error = actual.reshape(-1)[self.indices].astype(np.float64) - self.values
        return float(np.mean(np.square(error)) / self.rms**2)

    def rms_error(self, actual: npt.NDArray[Any]) -> float:
        """How far the RMS of ``actual``, the whole tensor, is from the golden one, relative to it."""
        return abs(float(np.sqrt(np.mean(np.square(actual.astype(np.float64))))) / self.rms - 1)


@dataclass(frozen=True)
class RealGolden:
    """Samples of every stage of a real model on ``tokens``."""

    tokens: tuple[int, ...]
    samples: Mapping[StageKey, StageSample]


@dataclass(frozen=True)
class SmolLM2Golden(RealGolden):
    """SmolLM2-135M-Instruct Q4_1 on "What is 2+2?": also the last position's logits, f32 [V]."""

    logits: F32


@dataclass(frozen=True)
class Gemma3Golden(RealGolden):
    """Gemma 3 270M Q4_K_M on "The capital of France is": also the token that comes next."""

    best: int


def nmse(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Mean square error relative to the mean square of ``expected``, in float64. The numbers of elements must be equal."""
    a, b = actual.reshape(-1).astype(np.float64), expected.reshape(-1).astype(np.float64)
    assert a.shape == b.shape, f"{actual.shape} is not {expected.shape}"
    return float(np.sum(np.square(a - b)) / np.sum(np.square(b)))


def _key(label: str) -> StageKey:
    layer, slash, stage = label.rpartition("/")
    return (int(layer.removeprefix("layer-")), stage) if slash else (None, stage)


@lru_cache(maxsize=1)
def golden_models() -> tuple[GoldenModel, ...]:
    """All tiny models of the package's families, by name: GGUF files with numbers beside them; the others are vocabularies."""
    models = []
    for path in sorted((*GOLDEN.glob("*.gguf"), *FAMILIES.glob("*.gguf")), key=lambda path: path.stem):
        numbers = path.with_suffix(".npz")
        if not numbers.is_file():
            continue
        with np.load(numbers) as arrays:
            stages = {_key(label): arrays[label] for label in arrays.files if label != "tokens"}
            models.append(GoldenModel(path.stem, path, tuple(arrays["tokens"].tolist()), stages))
    return tuple(models)


@lru_cache
def ops_of_golden(path: Path) -> frozenset[str]:
    """The ops of a golden model's graph."""
    return frozenset(node.op for node in aprgraph.load(path).graph)


def whole_by_reference_ops_by_others(golden: GoldenModel, target: str) -> frozenset[object]:
    """For ``each_choice``: every golden model by the reference, whose numbers they are, and every op by each other target."""
    return frozenset([golden.name] if target == "reference" else [f"{target} {op}" for op in ops_of_golden(golden.path)])


@lru_cache(maxsize=1)
def llama_cpp_logits() -> Mapping[str, F32]:
    """llama.cpp's logits, f32 [positions, V], of the models in families/ by their names."""
    with np.load(FAMILIES / "llama_cpp_logits.npz") as arrays:
        return dict(arrays)


@lru_cache(maxsize=1)
def llama_cpp_embeddings() -> Mapping[str, F32]:
    """llama.cpp's embeddings, of any length: f32 [Y] by a model's name, and f32 [n, E] of positions by ``<name>/positions``."""
    with np.load(FAMILIES / "llama_cpp_embeddings.npz") as arrays:
        return dict(arrays)


@lru_cache(maxsize=1)
def smollm2_golden() -> SmolLM2Golden:
    """The numbers of SmolLM2."""
    with np.load(GOLDEN / "smollm2_stages.npz") as arrays:
        return SmolLM2Golden(tuple(arrays["tokens"].tolist()), _samples(arrays), arrays["lm_head"])


@lru_cache(maxsize=1)
def gemma3_golden() -> Gemma3Golden:
    """The numbers of Gemma 3 270M."""
    with np.load(GOLDEN / "gemma3_stages.npz") as arrays:
        return Gemma3Golden(tuple(arrays["tokens"].tolist()), _samples(arrays), int(arrays["best"]))


def _samples(arrays: Any) -> dict[StageKey, StageSample]:
    samples: dict[StageKey, StageSample] = {}
    for label in arrays.files:
        stage, _, part = label.partition("/")
        if part != "indices":
            continue
        values, rms = arrays[f"{stage}/values"], arrays[f"{stage}/rms"]
        for row, layer in enumerate(arrays[f"{stage}/layers"].tolist()):
            samples[None if layer < 0 else layer, stage] = StageSample(arrays[label].astype(np.int64), values[row], float(rms[row]))
    return samples


def golden_json(name: str) -> Any:
    """The content of a JSON file of the golden folder."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))
