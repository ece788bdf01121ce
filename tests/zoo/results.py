"""The results of one family: every fault at every place, and runs without a fault. Each case runs once in a process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.runtime.diff import diff
from tests.support.compiled import compiled
from tests.zoo.check import Result, Right, check
from tests.zoo.faults import FAULTS
from tests.zoo.planting import Fault, Site
from tests.zoo.runs import Run, run
from tests.zoo.subjects import FAMILIES, TOKENS, VARIANTS, Subject, generates, subject

#: Families whose right runs, where models are plain, are the compiled kernels'; the others' are float32 NumPy's.
COMPILED = ("llama", "qwen2moe")
#: A fault of each family that is also looked for with few taps; of those that are not named, the transposed layout.
SPARSE_FAULTS = {
    "llama": "nibbles swapped",
    "qwen2": "bias forgotten",
    "qwen2moe": "shared expert forgotten",
    "qwen3": "norms of q and k forgotten",
    "qwen3moe": "router weights not renormalised",
    "mixtral": "gate and up swapped",
    "gemma3": "norm after the FFN forgotten",
    "olmo2": "norm after attention forgotten",
    "gemma2": "soft cap of the scores forgotten",
    "granite": "residual scale forgotten",
    "glm4": "RoPE pairing",
    "lfm2": "gate before the convolution missing",
    "lfm2moe": "gate behind the convolution missing",
    "mamba": "A taken for its logarithm",
    "mamba2": "D missing",
    "granitehybrid": "residual scale forgotten",
    "mistral3": "query temperature forgotten",
    "smollm3": "RoPE in a layer without it",
    "command-r": "FFN behind attention",
    "cohere2": "RMSNorm for LayerNorm",
    "exaone4": "norm before attention in place of behind",
    "gpt-oss": "sinks forgotten",
    "llama4": "weights on the outputs of experts",
}
_SPARSE_TAPS = "post_ffn_residual"
#: Seeds of the right runs of a plain model that are compared with each other; of other models, the first two.
_SEEDS = (1, 2, 3, 4, 5)

_BY_NAME = {fault.name: fault for fault in FAULTS}


@cache
def cases_of(fault: Fault, family: str) -> tuple[tuple[Subject, Site], ...]:
    """Where a fault can be in a family, and in which model; nowhere if it cannot."""
    if fault.families is not None and family not in fault.families:
        return ()
    models = [subject(family, variant) for variant in fault.variants if VARIANTS[variant].steps == 1 or generates(family)]
    return tuple((model, site) for model in models for site in fault.sites(model))


@cache
def faults_of(family: str) -> tuple[Fault, ...]:
    """The faults that a family can have."""
    return tuple(fault for fault in FAULTS if cases_of(fault, family))


@cache
def results_of(family: str, name: str) -> tuple[Result, ...]:
    """The results of one fault at each of its places."""
    return tuple(_result(family, name, case) for case in range(len(cases_of(_BY_NAME[name], family))))


def sample_of(family: str, name: str) -> Result:
    """The result of one fault at one of its places: at another one in the next family, and for the next fault."""
    fault = _BY_NAME[name]
    return _result(family, name, (FAULTS.index(fault) + list(FAMILIES).index(family)) % len(cases_of(fault, family)))


@cache
def _result(family: str, name: str, case: int) -> Result:
    fault = _BY_NAME[name]
    model, site = cases_of(fault, family)[case]
    return check(fault, site, _right(model, _around(model, site)))


def sparse_fault_of(family: str) -> str:
    """The fault of a family that is also looked for with few taps."""
    return SPARSE_FAULTS.get(family, "layout transposed")


@cache
def sparse_results_of(family: str) -> tuple[Result, ...]:
    """The results of one fault with few taps."""
    fault = _BY_NAME[sparse_fault_of(family)]
    return tuple(check(fault, site, _right(model, _few_taps(model))) for model, site in cases_of(fault, family))


def _around(model: Subject, site: Site) -> Plan:
    """All stages of the layer of a fault and of the one before it, or from the one on whose keys it shares; of every layer, where
    it is in no one layer.
    """
    if site.layer is None:
        return model.everything
    read = {operand.layer for node in model.graph if node.layer == site.layer for operand in model.graph.operands(node.name)}
    first = min(layer for layer in (*read, site.layer) if layer is not None)
    return parse_plan("all", f"{min(first, max(site.layer - 1, 0))}..{site.layer + 1}")


def sparse_taps_of(model: Subject) -> str:
    """The few taps: the end of each layer, and what the model gives."""
    (output,) = model.replayed.graph.outputs
    return f"{_SPARSE_TAPS},{model.graph[output].stage}"


def _few_taps(model: Subject) -> Plan:
    return parse_plan(sparse_taps_of(model), f"0..{model.model.family.layers}")


@dataclass(frozen=True)
class NoiseResult:
    """Two right runs: of which models and what computed them, the exit code of ``diff``, and what audits call wrong."""

    what: str
    exit_code: int
    verdict: str
    wrong: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was flagged."""
        return self.exit_code == 0 and not self.wrong


@cache
def noise_results_of(family: str) -> tuple[NoiseResult, ...]:
    """Runs without a fault, compared with each other, in every variant that a fault of the family needs."""
    found = []
    for variant in dict.fromkeys(["plain", *(variant for fault in faults_of(family) for variant in fault.variants)]):
        model = subject(family, variant)
        seeds = _SEEDS if variant == "plain" else _SEEDS[:2]
        rights = {f"seed {seed}": _right_of(model, seed) for seed in seeds}
        if variant == "plain" and family in COMPILED:
            rights = {"kernels": _right(model, model.everything), **rights}
        wrong = {name: [f"{local.label}: {local.reason}" for local in right.audit.wrong] for name, right in rights.items()}
        (first, left), *others = rights.items()
        for name, right in others:
            report = diff(left.trace, right.trace)
            found.append(NoiseResult(f"{variant}, {first} and {name}", report.exit_code, report.verdict, (*wrong[first], *wrong[name])))
    return tuple(found)


def _right_of(model: Subject, seed: int) -> Right:
    """NumPy's run of a seed with everything recorded: of the first, the one that faulty runs are compared with if that is NumPy's."""
    right = _right(model, model.everything)
    return right if seed == _SEEDS[0] and right.run.target == Run.target else Right(run(model, seed), model.everything)


@cache
def _right(model: Subject, plan: Plan) -> Right:
    return Right(_right_run(model), plan)


@cache
def _right_run(model: Subject) -> Run:
    """The compiled kernels' run of plain models of some families, and NumPy's of the others."""
    if model.variant != "plain" or model.family not in COMPILED:
        return run(model, _SEEDS[0])
    path = model.model.path
    layers = f"0..{model.model.family.layers}"
    trace = compiled(path).run(taps="all", layers=layers, tokens=TOKENS, directory=path.with_suffix(".kernels"))
    assert trace.info is not None
    return Run(model, TOKENS, {entry.key: (entry.node or "", trace.load(entry)) for entry in trace.entries}, target=trace.info.target)
