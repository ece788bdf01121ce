"""The words that messages and reports are put together from: counts with their nouns, lists, shapes, sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from aprgraph.graph.message import Message


def plain(text: str) -> str:
    """``text`` on one line, with U+FFFD in place of every character that a terminal might obey: it may be of a file or a manifest."""
    return text if text.isprintable() else "".join(character if character.isprintable() else "�" for character in text)


def plural(count: int, noun: str) -> str:
    """``noun``, with an s unless ``count`` is 1."""
    return noun if count == 1 else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """``1 tensor``, ``3,000 tensors``."""
    return f"{count:,} {plural(count, noun)}"


def joined(parts: Sequence[str], word: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``; ``word`` stands before the last."""
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}" if len(parts) > 1 else "".join(parts)


def listed(names: Iterable[object], most: int) -> str:
    """``a, b, c``, the first ``most``, and how many more there are: ``a, b, c and 4 more``."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + and_more(texts[most:])


def runs(numbers: Iterable[int], most: int) -> str:
    """Ascending numbers: ``0 to 3, 7``; the first ``most`` runs, and how many more there are."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = int(number)
        else:
            found.append([int(number), int(number)])
    return listed((f"{first} to {last}" if last > first else first for first, last in found), most)


def and_more(rest: Collection[object]) -> str:
    """`` and 4 more``, to follow what was named; nothing where nothing is left."""
    return f" and {len(rest):,} more" if rest else ""


def as_sentence(text: str) -> str:
    """``text`` with a capital letter and an end."""
    first, *rest = (text.parts or ("",)) if isinstance(text, Message) else (text,)
    begun = first[:1].upper() + first[1:] if isinstance(first, str) else first
    return Message(begun, *rest, "" if text.endswith(("?", ".")) else ".")


def shortened(text: str, most: int = 300) -> str:
    """``text`` in one line of at most ``most`` characters."""
    text = plain(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shape_text(dims: Iterable[object]) -> str:
    """``7 x 576``."""
    return " x ".join(map(str, dims))


def layer_ranges(layers: Iterable[int]) -> str:
    """Layer numbers: ``layer 4``, ``layers 0..3 and 7``; both ends are named, and are in."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    text = joined([str(first) if first == last else f"{first}..{last}" for first, last in runs])
    return f"layer {text}" if len(runs) == 1 and runs[0][0] == runs[0][1] else f"layers {text}"


def small_number(value: float | None) -> str:
    """An error: ``1.24e-02``; ``0`` for exactly nothing; empty where there is no answer."""
    return "" if value is None else "0" if value == 0 else f"{value:.2e}"


def bytes_text(count: int) -> str:
    """A file's size, in powers of 1000: ``512 B``, ``1.4 GB``."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
