"""What the gated delta nets of transformers compute, and its attention with an output gate, for transformers_recorder.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

#: Takes (layer, stage, tensor in the shape of the stage table).
Put = Callable[[int, str, torch.Tensor], None]
#: The scan of the first Mamba, which multiplies by the gate in the same call.
_SELECTIVE = "mamba_selective_scan"


def in_gguf_order(config: Any, stage: str, values: torch.Tensor) -> torch.Tensor:
    """Columns of a stage of Qwen 3.5 with the heads of v that share one of q and k far apart, as GGUF has them."""
    groups, size = config.linear_num_key_heads, config.linear_value_head_dim

    def moved(columns: torch.Tensor, head: int) -> torch.Tensor:
        return columns.unflatten(1, (groups, -1, head)).transpose(1, 2).flatten(1)

    if stage in ("conv_in", "conv_out", "conv_silu"):
        keys = 2 * groups * config.linear_key_head_dim
        return torch.cat([values[:, :keys], moved(values[:, keys:], size)], dim=1)
    if stage in ("delta_gate", "delta_rule", "delta_gated"):
        return moved(values, size)
    return moved(values, 1) if stage in ("delta_beta", "delta_decay") else values


def hook_delta_net(put: Put, index: int, module: Any) -> None:
    """Record what goes into the convolution and the gate of a layer's gated delta net, and what it gives."""

    def inputs(_module: Any, args: Any, kwargs: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        if hasattr(module, "in_proj_qkv"):
            mixed, gate = module.in_proj_qkv(x)[0], module.in_proj_z(x)
        else:
            q, k, v, gate, *_ = module.fix_query_key_value_ordering(module.in_proj_qkvz(x), module.in_proj_ba(x))
            mixed = torch.cat([part[0].reshape(x.shape[1], -1) for part in (q, k, v)], dim=1)
        put(index, "conv_in", mixed)
        put(index, "delta_gate", gate[0].reshape(x.shape[1], -1))
        put(index, "conv_out", module.conv1d(mixed.T[None])[0, :, : x.shape[1]].T)

    module.register_forward_pre_hook(inputs, with_kwargs=True)
    module.out_proj.register_forward_pre_hook(lambda _module, args: put(index, "delta_gated", args[0][0]))
    module.out_proj.register_forward_hook(lambda _module, _args, output: put(index, "attn_out", output[0]))


def hook_gated_convolution(put: Put, index: int, module: Any) -> None:
    """Record what goes on in a layer's gated short convolution."""

    def projected(_module: Any, _args: Any, output: torch.Tensor) -> None:
        b, _, x = output[0].chunk(3, dim=1)
        put(index, "conv_bcx", output[0])
        put(index, "conv_bx", b * x)
        put(index, "conv_out", module.conv((b * x).T[None])[0, :, : len(x)].T)

    module.in_proj.register_forward_hook(projected)
    module.out_proj.register_forward_pre_hook(lambda _module, args: put(index, "conv_gated", args[0][0]))
    module.out_proj.register_forward_hook(lambda _module, _args, output: put(index, "attn_out", output[0]))


def hook_state_space(put: Put, index: int, module: Any) -> None:
    """Record what goes on in a layer's state space."""
    inner, heads = module.intermediate_size, module.num_heads

    def projected(_module: Any, _args: Any, output: torch.Tensor) -> None:
        gate, mixed, step = output[0].split([inner, output.shape[-1] - inner - heads, heads], dim=1)
        put(index, "ssm_gate", gate)
        put(index, "conv_in", mixed)
        put(index, "conv_out", module.conv1d(mixed.T[None])[0, :, : len(mixed)].T)
        put(index, "ssm_step", torch.nn.functional.softplus(step + module.dt_bias))

    module.in_proj.register_forward_hook(projected)
    module.norm.register_forward_pre_hook(lambda _module, args: put(index, "ssm_scan", args[0][0].double()))
    module.out_proj.register_forward_pre_hook(lambda _module, args: put(index, "ssm_norm", args[0][0]))
    module.out_proj.register_forward_hook(lambda _module, _args, output: put(index, "attn_out", output[0]))


def hook_selective_space(put: Put, index: int, module: Any) -> None:
    """Record what goes on in a layer's selective state space, but for its scan."""

    def projected(_module: Any, _args: Any, output: torch.Tensor) -> None:
        mixed, gate = output[0].chunk(2, dim=1)
        put(index, "ssm_gate", gate)
        put(index, "conv_in", mixed)
        put(index, "conv_out", module.conv1d(mixed.T[None])[0, :, : len(mixed)].T)

    module.in_proj.register_forward_hook(projected)
    module.x_proj.register_forward_hook(lambda _module, _args, output: put(index, "ssm_dt_b_c", output[0]))
    for part in ("dt", "b", "c"):
        if hasattr(module, f"{part}_layernorm"):
            norm = getattr(module, f"{part}_layernorm")
            norm.register_forward_hook(lambda _module, _args, output, part=part: put(index, f"ssm_{part}_norm", output[0]))
    module.out_proj.register_forward_pre_hook(lambda _module, args: put(index, "ssm_gated", args[0][0]))
    module.out_proj.register_forward_hook(lambda _module, _args, output: put(index, "attn_out", output[0]))


def hook_state_space_beside(put: Put, index: int, layer: Any) -> None:
    """Record what goes on in the state space that a layer of Falcon-H1 has beside its attention, its factors included."""
    module = layer.mamba
    inner, heads = module.intermediate_size, module.num_heads

    def projected(_module: Any, _args: Any, output: torch.Tensor) -> None:
        scaled = (output * module.mup_vector)[0]
        gate, mixed, step = scaled.split([inner, scaled.shape[-1] - inner - heads, heads], dim=1)
        put(index, "ssm_gate", gate)
        put(index, "conv_in", mixed)
        put(index, "conv_out", module.conv1d(mixed.T[None])[0, :, : len(mixed)].T)
        put(index, "ssm_step", torch.nn.functional.softplus(step + module.dt_bias))

    module.in_proj.register_forward_hook(projected)
    into = "ssm_norm" if module.mamba_rms_norm else "ssm_gated"
    module.out_proj.register_forward_pre_hook(lambda _module, args: put(index, into, args[0][0]))
    module.out_proj.register_forward_hook(lambda _module, _args, output: put(index, "ssm_out", output[0] * layer.ssm_out_multiplier))


@contextlib.contextmanager
def recorded_functions(functions: Any, put: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Record what the functions are given and give that a layer's delta net calls. ``put`` knows the layer."""
    names = ("causal_conv1d_fn", "torch_chunk_gated_delta_rule", *(("mamba2_chunk_scan",) if hasattr(functions, "FalconH1Mixer") else ()))
    own = {name: getattr(functions, name) for name in (*names, _SELECTIVE) if hasattr(functions, name)}

    def conv(*args: Any, **kwargs: Any) -> Any:
        result = own[names[0]](*args, **kwargs)
        if args[3:4] or kwargs.get("activation"):
            put("conv_silu", result[0].T)
        return result

    def rule(query: Any, key: Any, value: Any, *, g: Any, beta: Any, **kwargs: Any) -> Any:
        for stage, heads in (("delta_q", query), ("delta_k", key)):
            put(stage, functions.l2norm(heads).reshape(heads.shape[1], -1))
        put("delta_decay", g[0])
        put("delta_beta", beta[0])
        result = own[names[1]](query, key, value, g=g, beta=beta, **kwargs)
        put("delta_rule", result[0].reshape(value.shape[1], -1))
        return result

    def scan(*args: Any, **kwargs: Any) -> Any:
        result = own[names[2]](*args, **kwargs)
        put("ssm_scan", result[0].reshape(result.shape[1], -1).double())
        return result

    def selective(x: Any, dt: Any, *args: Any, **kwargs: Any) -> Any:
        put("ssm_step", torch.nn.functional.softplus(dt + kwargs["delta_bias"].to(dt)[:, None])[0].T)
        put("ssm_scan", own[_SELECTIVE](x, dt, *args, **{**kwargs, "z": None, "return_last_state": False})[0].T)
        return own[_SELECTIVE](x, dt, *args, **kwargs)

    for name, recorded in (*zip(names, (conv, rule, scan), strict=False), (_SELECTIVE, selective)):
        if name in own:
            setattr(functions, name, recorded)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(functions, name, function)
