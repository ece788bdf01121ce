"""Experts that are chosen from the best of several groups (DeepSeek-V2, arXiv:2405.04434, section 2.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.mixture import SIGMOID, Mixture
from aprgraph.graph.families.numbers import number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class ExpertGroups(Mixture):
    """A mixture whose experts may be divided into groups of equal size, of which the best are used.

    With sigmoids a group is as good as its two best experts together, with a softmax as its best.
    """

    groups = number("expert_group_count", "n_group", 1, least=0)
    used_groups = number("expert_group_used_count", "topk_group", 1, least=0)

    def check(self) -> None:
        """Raise ModelError for groups that do not fit, and what the parents raise."""
        super().check()
        count_name, used_name, chosen_name = (self.named(f"expert_{name}count") for name in ("group_", "group_used_", "used_"))
        if self.experts and self.groups > 1 and (self.experts % self.groups or not 1 <= self.used_groups <= self.groups):
            raise ModelError(
                f"{self.metadata.path}: {self.used_groups} ({used_name}) of {self.groups} groups "
                f"({count_name}) of {self.experts} experts ({self.named('expert_count')}); expected some of several "
                "groups of equal size"
            )
        size = self.experts // self.groups if self.experts and self.groups > 1 else 0
        if size and self.chosen > self.used_groups * size:
            raise ModelError(
                f"{self.metadata.path}: {chosen_name} is {self.chosen}, but {self.used_groups} ({used_name}) of {self.groups} groups "
                f"({count_name}) are used, which have {self.used_groups * size} experts; expected at most that many"
            )
        if size == 1 and SIGMOID in (self.gating, self.gating_function):
            raise ModelError(
                f"{self.metadata.path}: {count_name} is {self.groups}, with one expert in each group; expected two at least, by which "
                "groups are chosen"
            )

    def choose(self, g: GraphBuilder, scores: str) -> str:
        """The best experts of the best groups."""
        if self.groups <= 1:
            return super().choose(g, scores)
        best = 2 if self.gating_of(g) == SIGMOID else 1
        groups = {"groups": self.groups, "used_groups": self.used_groups, "best_of_group": best}
        return g.apply("moe_router_indices", "top_k", scores, k=self.chosen, **groups)
