"""A byte-level tokenizer for tiny models: every text encodes, and a few merges make the merging show."""

from __future__ import annotations

from gguf import GGUFWriter, TokenType

_MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "i s", "Ġ is", "t h", "th e", "Ġ +")
_CONTROL = ("<|endoftext|>", "<|im_start|>")


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE (GPT-2's `bytes_to_unicode`), by byte.

    Printable Latin-1 bytes stand for themselves, the others take the code points from U+0100 on, in byte order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def add_byte_level_tokenizer(writer: GGUFWriter, vocabulary: int, *, bos: bool = False) -> None:
    """Add the metadata of a `gpt2` tokenizer with ``vocabulary`` tokens (at least 272): control tokens first, then bytes."""
    least = len(_CONTROL) + 256 + len(_MERGES)
    assert vocabulary >= least, f"a byte-level tokenizer has at least {least} tokens, not {vocabulary}"
    tokens = [*_CONTROL, *byte_alphabet(), *(merge.replace(" ", "") for merge in _MERGES)]
    tokens += [f"<|unused_{index}|>" for index in range(vocabulary - least)]
    kinds = [TokenType.NORMAL] * vocabulary
    kinds[: len(_CONTROL)] = [TokenType.CONTROL] * len(_CONTROL)
    kinds[least:] = [TokenType.UNUSED] * (vocabulary - least)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(bos)
