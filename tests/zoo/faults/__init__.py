"""All faults, in the order of the table: one module a theme."""

from __future__ import annotations

from tests.zoo.faults import (
    attention,
    caches,
    ends,
    experts,
    feed_forward,
    heads,
    latent,
    norms,
    per_layer,
    pooling,
    recurrent,
    rope,
    rope_parts,
    streams,
    weights,
)
from tests.zoo.planting import Fault

FAULTS: tuple[Fault, ...] = tuple(
    fault
    for theme in (
        ends,
        norms,
        weights,
        rope,
        rope_parts,
        heads,
        attention,
        latent,
        caches,
        recurrent,
        feed_forward,
        experts,
        pooling,
        per_layer,
        streams,
    )
    for fault in theme.FAULTS
)
