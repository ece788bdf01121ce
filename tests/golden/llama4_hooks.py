"""What the recorder knows of Llama 4: experts whose inputs are weighed, and one module that normalises the heads of q and of k."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Takes layer, stage, values.
Put = Callable[[int, str, torch.Tensor], None]


def hook_norm_of_heads(put: Put, index: int, norm: Any) -> None:
    """Record what the norm gives, which is called for q and then for k, [1, n, heads, D]."""
    calls: list[None] = []

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        put(index, "k_norm" if len(calls) % 2 else "q_norm", output[0].flatten(1))
        calls.append(None)

    norm.register_forward_hook(hook)


def hook_weighed_experts(put: Put, index: int, network: Any) -> None:
    """Record router and experts. transformers runs all experts, most of them on zeros: those chosen are computed again.

    Their sum has to be that of all.
    """
    found: dict[str, torch.Tensor] = {}

    def route(_router: Any, inputs: Any, output: Any) -> None:
        scores, logits = output
        chosen = logits.topk(network.top_k, dim=1).indices
        weights = torch.gather(scores, 1, chosen)
        given = inputs[0][:, None] * weights[..., None]
        gate, up = torch.einsum("nke,nkef->nkf", given, network.experts.gate_up_proj[chosen]).chunk(2, dim=-1)
        product = torch.nn.functional.silu(gate) * up
        out = torch.einsum("nkf,nkfe->nke", product, network.experts.down_proj[chosen])
        stages = {"router_logits": logits, "router": weights, "router_indices": chosen.double(), "expert_in": given, "expert_gate": gate,
                  "expert_up": up, "expert_swigl": product, "expert_out": out}  # fmt: skip
        for name, values in stages.items():
            put(index, f"moe_{name}", values)
        found["sum"] = out.sum(1)

    def check(experts: Any, _inputs: Any, output: torch.Tensor) -> None:
        of_all = output.reshape(experts.num_experts, -1, output.shape[-1]).sum(0)
        assert torch.allclose(found.pop("sum"), of_all, rtol=1e-10, atol=1e-10)

    network.router.register_forward_hook(route)
    network.experts.register_forward_hook(check)
