"""Where in a run a tensor stands."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """The step (0 is the prompt), the layer (None of a whole-model stage) and the stage; what two traces are paired by."""

    step: int
    layer: int | None
    stage: str

    @property
    def in_step(self) -> tuple[int | None, str]:
        """The layer and the stage."""
        return self.layer, self.stage

    @property
    def in_step_label(self) -> str:
        """``layer 3 ffn_gate``, ``lm_head``."""
        return self.stage if self.layer is None else f"layer {self.layer} {self.stage}"

    @property
    def name(self) -> str:
        """What a program calls it, as ``Trace.write`` takes it: ``layer3.ffn_gate``, ``lm_head``, ``step2.layer0.attn_out``."""
        in_step = self.stage if self.layer is None else f"layer{self.layer}.{self.stage}"
        return in_step if self.step == 0 else f"step{self.step}.{in_step}"

    @property
    def label(self) -> str:
        """What a person calls it: ``layer 3 ffn_gate``, ``lm_head``, ``step 2 layer 0 attn_out``."""
        return self.in_step_label if self.step == 0 else f"step {self.step} {self.in_step_label}"
