"""Mistakes of biases: left out, added twice, another one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprgraph.runtime.explain.alternative import Alternative, explains, goes_on, with_operand, with_value
from aprgraph.runtime.explain.site import Site


@explains("bias_add", "expert_bias_add")
def other_bias(site: Site) -> Iterator[Alternative]:
    """The biases are left out, added twice, or another layer's; some of them only."""
    biases = site.weight_names()
    name, verb = (site.label(biases[0][0]), "is") if len(biases) == 1 else ("the biases", "are")
    yield Alternative("bias-missing", f"{name} {verb} left out", goes_on(0))
    twice = with_operand(site, 0, lambda x: site.compute([x, *site.operands[1:]]))
    yield Alternative("bias-twice", f"{name} {verb} added twice", twice)
    for index, weight in biases:
        if len(biases) > 1:
            yield Alternative("bias-missing", f"{site.label(index)} is left out", with_operand(site, index, np.zeros_like))
        for other in site.weights_like(weight):
            change = with_value(site, index, site.read(other))
            if site.fits(change(site.operands)):
                yield Alternative("other-weight", f"{site.label_of(other)} is added in place of {site.label(index)}", change)
                break
    if len(biases) == 1 and site.recorded is not None and site.node.op == "bias_add":
        yield from _part_of_bias(site)


def _part_of_bias(site: Site) -> Iterator[Alternative]:
    """Of one bias for several outputs a part is left out."""
    assert site.recorded is not None
    bias = np.asarray(site.operands[1])
    absent = np.abs((site.recorded - site.operands[0]).mean(axis=0)) < 1e-3 * np.abs(bias)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], absent.astype(int), [0]])))
    if len(edges) == 2:
        words = f"the elements {edges[0]} to {edges[1] - 1} of {site.label(1)} are left out"
        yield Alternative("bias-missing", words, with_value(site, 1, np.where(absent, 0.0, bias)))
