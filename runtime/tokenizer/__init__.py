"""The model's own tokenizer, from the metadata of its file: of a GGUF file the ids that llama.cpp gives with parse_special, of a
checkpoint those of transformers.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from aprgraph.graph.arguments import TOKENS
from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.byte_pair import BytePairEncoder
from aprgraph.runtime.tokenizer.hugging_face import HuggingFaceTokenizer
from aprgraph.runtime.tokenizer.sentence_piece import SentencePieceEncoder
from aprgraph.runtime.tokenizer.stream import TokenStream
from aprgraph.runtime.tokenizer.tokenizer import Encoder, Tokenizer
from aprgraph.runtime.tokenizer.unigram import UnigramEncoder
from aprgraph.runtime.tokenizer.vocabulary import MODEL_KEY, check_embedding_rows, read_vocabulary
from aprgraph.runtime.tokenizer.word_piece import WordPieceEncoder

_ENCODERS: dict[str, type[BytePairEncoder | SentencePieceEncoder | UnigramEncoder | WordPieceEncoder]] = {
    "bert": WordPieceEncoder,
    "gpt2": BytePairEncoder,
    "llama": SentencePieceEncoder,
    "t5": UnigramEncoder,
}


_LOADED: WeakKeyDictionary[Metadata, Tokenizer] = WeakKeyDictionary()


def load_tokenizer(metadata: Metadata) -> Tokenizer:
    """The tokenizer that the metadata describes; it is made once for as long as the metadata is held.

    Raises UnsupportedModelError for an unknown tokenizer model or pre-tokenizer, and ModelError for a vocabulary that is
    incomplete or contradicts itself. Merges are read when a text is encoded.
    """
    if metadata in _LOADED:
        return _LOADED[metadata]
    if MODEL_KEY not in metadata and metadata.no_tokenizer is not None:
        raise UnsupportedModelError(metadata.no_tokenizer, "give the prompt as token ids with ", TOKENS)
    kind = metadata.text(MODEL_KEY)
    if kind == "huggingface":
        _LOADED[metadata] = HuggingFaceTokenizer(metadata, read_vocabulary(metadata))
        return _LOADED[metadata]
    if kind not in _ENCODERS:
        raise UnsupportedModelError(
            f"{metadata.path}: {MODEL_KEY} is {shown(kind)}; supported: {', '.join(_ENCODERS)}; give the prompt as token ids with ",
            TOKENS,
        )
    vocabulary = read_vocabulary(metadata)
    _LOADED[metadata] = Tokenizer(metadata, vocabulary, _ENCODERS[kind](metadata, vocabulary))
    return _LOADED[metadata]


__all__ = ["Encoder", "TokenStream", "Tokenizer", "check_embedding_rows", "load_tokenizer"]
