"""What bench/cuda.py says: its rows as a table for people and as a page for docs/."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``measured`` over ``peer``: the median over rounds, the least and the most. Seconds of one call of each; what they did in one."""

    section: str
    case: str
    measured: str
    peer: str
    ratio: float
    least: float
    most: float
    seconds: float
    peer_seconds: float
    unit: str  # of the amounts, "B" or "FLOP"; "" where times are compared
    amount: float = 0.0
    peer_amount: float = 0.0

    def cells(self) -> list[str]:
        """For people: the case, both sides with what they did, the ratio and its spread."""
        mine, peer = self._did(self.amount, self.seconds), self._did(self.peer_amount, self.peer_seconds)
        return [self.case, f"{self.measured} {mine}", f"{self.peer} {peer}", f"{self.ratio:.3f}", f"{self.least:.3f} .. {self.most:.3f}"]

    def _did(self, amount: float, seconds: float) -> str:
        if not self.unit:
            return f"{seconds * 1e3:.3f} ms"
        rate = amount / seconds
        scale, prefix = next((each for each in ((1e12, "T"), (1e9, "G")) if rate >= each[0]), (1e6, "M"))
        return f"{rate / scale:.2f} {prefix}{self.unit}/s"


@dataclass(frozen=True)
class Section:
    """The heading of some rows, and how they are to be read."""

    title: str
    note: str


SECTIONS = {
    "bandwidth": Section(
        "Linear kernels, few positions: bytes a second as a share of a copy's",
        "The kernel's bytes are those of the weight, x and out, each once: nearly all are read. A device-to-device copy's are those that "
        "it reads and those that it writes, both counted, so that both sides say what passed through the memory. The copy of as many "
        "bytes moves what the kernel does, half read and half written, and has its launch to pay like it. Weights and what is copied "
        "take turns among copies, so that none is in the cache.",
    ),
    "prefill": Section(
        "Linear kernels, many positions: operations a second as a share of the peer's",
        "2 · n · R · C operations. sgemm is cuBLAS on weights in float32, with TF32 off (the check of its result would find it on). The "
        "FMA loop is multiply-adds in registers and nothing else, by the same compiler: what float32 arithmetic could be at most.",
    ),
    "split": Section(
        "What the fixed split of a row costs many positions: time with the parts as they are over time with one part",
        "The same tiled kernel, with a row of weights in one segment instead of up to 16 whose sums are added "
        "(codegen/kernels/cuda/linear.py).",
    ),
    "attention": Section(
        "Attention: time of the fused kernel over that of its three kernels",
        "The three write and read scores and softmax, [H, n, t] each; the fused one computes the scores three times.",
    ),
    "model": Section(
        "A model: time over time",
        "untapped, trace (all stages of all layers, to files) and statistics (the same without files) are passes of an engine that is "
        "open: kernels are loaded, weights are on the device. output_of() and record() are whole calls of the API, which open one first.",
    ),
}
_HEADINGS = ["case", "measured", "peer", "ratio", "least .. most"]


def show(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come, and return them."""
    shown: list[Row] = []
    for row in rows:
        if not shown or shown[-1].section != row.section:
            print(f"\n{SECTIONS[row.section].title}")
            _print(_HEADINGS)
        _print(row.cells())
        shown.append(row)
    return shown


def _print(cells: list[str]) -> None:
    case, measured, peer, ratio, spread = cells
    print(f"  {case:44}  {measured:28}  {peer:40}  {ratio:>7}  {spread:>18}", flush=True)


def markdown(about: Mapping[str, str], rows: Iterable[Row]) -> str:
    """The page for docs/."""
    how = "Written by `bench/cuda.py`. Ratios are what is to be read: measured over peer, in turns within one run, median of the rounds."
    lines = ["# CUDA: measured on a GPU", "", how, ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {f'`{said}`' if name == 'command' else said} |" for name, said in about.items()), ""]
    for section, text in SECTIONS.items():
        mine = [row for row in rows if row.section == section]
        if mine:
            lines += [f"## {text.title}", "", text.note, "", f"| {' | '.join(_HEADINGS)} |", "|---|---|---|---:|---:|"]
            lines += [*(f"| {' | '.join(row.cells())} |" for row in mine), ""]
    return "\n".join(lines)
