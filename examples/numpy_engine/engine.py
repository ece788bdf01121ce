"""An engine to be tested: the forward pass of Llama models in NumPy, from a GGUF file, that gives away all that it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gguf
import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]


class Engine:
    """A model file; ``layers`` of it are computed, all if None."""

    def __init__(self, path: str, layers: int | None = None) -> None:
        reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.keys = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")}
        self.layers = self.keys["llama.block_count"] if layers is None else layers
        self.heads, self.kv_heads = (self.keys[f"llama.attention.head_count{kv}"] for kv in ("", "_kv"))
        self.base = 10000.0

    def weight(self, name: str) -> Array:
        """A tensor of the file, rows first, in float32."""
        tensor = self.tensors[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def norm(self, x: Array, name: str) -> Array:
        """RMSNorm."""
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + np.float32(self.keys["llama.attention.layer_norm_rms_epsilon"])) * self.weight(name)

    def rope(self, x: Array) -> Array:
        """Neighbours of each head turned by their position; ``x`` is positions x heads x elements."""
        positions, half = np.arange(len(x)), np.arange(0, x.shape[2], 2)
        angles = (positions[:, None] * self.base ** (-half / x.shape[2]))[:, None, :]
        cos, sin, even, odd = np.cos(angles), np.sin(angles), x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape).astype(np.float32)

    def forward(self, tokens: Sequence[int]) -> dict[str, Array]:
        """Each stage by its name; ``lm_head`` are the logits of the last position."""
        n, seen = len(tokens), {}
        x = seen["layer0.embedding"] = self.weight("token_embd.weight")[list(tokens)]
        for layer in range(self.layers):
            at, of = f"layer{layer}.", f"blk.{layer}."
            normed = seen[at + "attn_norm"] = self.norm(x, of + "attn_norm.weight")
            q, k, v = (normed @ self.weight(f"{of}attn_{one}.weight").T for one in "qkv")
            seen[at + "qkv_matmul"] = np.concatenate([q, k, v], axis=1)
            q = seen[at + "q_post_rope"] = self.rope(q.reshape(n, self.heads, -1))
            k = seen[at + "k_post_rope"] = self.rope(k.reshape(n, self.kv_heads, -1))
            k, v = (np.repeat(one.reshape(n, self.kv_heads, -1), self.heads // self.kv_heads, axis=1) for one in (k, v))
            scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(np.float32(q.shape[2]))
            scores = seen[at + "attn_scores"] = np.where(np.tri(n, dtype=bool), scores, np.float32(-np.inf))
            exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
            softmax = seen[at + "attn_softmax"] = exponents / exponents.sum(axis=-1, keepdims=True)
            mixed = seen[at + "attention"] = np.einsum("hij,jhd->ihd", softmax, v).reshape(n, -1)
            x = x + mixed @ self.weight(of + "attn_output.weight").T
            seen[at + "post_attn_residual"] = x
            normed = seen[at + "ffn_norm"] = self.norm(x, of + "ffn_norm.weight")
            gate, up = (seen.setdefault(f"{at}ffn_{one}", normed @ self.weight(f"{of}ffn_{one}.weight").T) for one in ("gate", "up"))
            gated = seen[at + "ffn_swigl"] = gate / (1 + np.exp(-gate)) * up
            x = x + gated @ self.weight(of + "ffn_down.weight").T
            seen[at + "post_ffn_residual"] = x
        if self.layers == self.keys["llama.block_count"]:
            final = seen["final_norm"] = self.norm(x, "output_norm.weight")
            head = "output.weight" if "output.weight" in self.tensors else "token_embd.weight"
            seen["lm_head"] = final[-1] @ self.weight(head).T
        return seen
