"""Model files: GGUF and its parts, .apr files, checkpoints and their tokenizers."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from random import Random

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.runtime.check import check
from aprgraph.runtime.tokenizer import load_tokenizer
from tests.fuzz.gguf_parts import read_raw
from tests.fuzz.mutations import any_value, mutate_bytes, mutate_json, mutate_text
from tests.fuzz.target import Target
from tests.support.apr_bytes import AprBytes, from_checkpoint
from tests.support.checkpoints import CHECKPOINTS, write_checkpoint
from tests.support.gguf_bytes import ARRAY, BOOL, F32, F64, I32, STRING, U32, U64, RawGGUF, array, scalar
from tests.support.tiny import write_tiny_model

FAMILIES = ("llama", "qwen3moe", "gemma3", "deepseek2", "bert", "qwen3next", "mamba2", "gpt2")


class _Model(Target):
    commands = ("inspect {} --json", "check {}", "graph {} --format json -o out.json", "stages {}", "run {} --target reference --taps lm_head --tokens 1 -o out")  # fmt: skip

    def read(self) -> None:
        model = load_model(self.path)
        build_graph(model)
        check(self.path)
        load_tokenizer(model.file.metadata).encode("a b")


def _with_file(file: str) -> tuple[str, ...]:
    return tuple(command.format(file) for command in _Model.commands)


class Gguf(_Model):
    """Keys of other kinds and values, tensors of other sizes, types and places, counts, and bytes of the header."""

    name = "gguf"
    file = "m.gguf"
    commands = _with_file(file)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seeds = [
            read_raw(write_tiny_model(folder / f"{family}.gguf", family=family, hidden=None, layers=1)) for family in FAMILIES[:1]
        ]
        for family in FAMILIES[1:]:
            self.seeds.append(read_raw(write_tiny_model(folder / f"{family}.gguf", family=family)))

    def mutate(self, random: Random) -> None:
        self.path.write_bytes(self.damaged(random, random.choice(self.seeds)))

    def damaged(self, random: Random, whole: tuple[RawGGUF, bytes]) -> bytes:
        file, data = RawGGUF(dict(whole[0].keys), dict(whole[0].tensors)), whole[1]
        for _ in range(random.randint(1, 3)):
            how, key = random.random(), random.choice(list(file.keys))
            name = random.choice(list(file.tensors) or [""])
            if how < 0.45:
                file.keys[key] = _any_key(random, file.keys[key])
            elif how < 0.5:
                file.keys.pop(key)
            elif how < 0.55:
                file.keys[mutate_text(random, str(key), 1).encode("utf-8", "surrogatepass")] = file.keys[key]
            elif how < 0.65 and name in file.tensors:
                file.tensors.pop(name)
            elif name in file.tensors and how < 0.9:
                file.tensors[name] = _any_tensor(random, file.tensors[name])
            elif name in file.tensors and how < 0.93:
                file.tensors[mutate_text(random, str(name), 1).encode("utf-8", "surrogatepass")] = file.tensors.pop(name)
            elif how < 0.97:
                file.tensor_count = random.choice((0, 1, len(file.tensors) + 1, 2**32, 2**63, 2**64 - 1))
            else:
                file.key_count = random.choice((0, 1, len(file.keys) + 1, 2**32, 2**64 - 1))
        header = file.header()
        packed = header + bytes(-len(header) % 32) + data
        return mutate_bytes(random, packed, len(header)) if random.random() < 0.3 else packed


def _any_key(random: Random, old: tuple[int, bytes]) -> tuple[int, bytes]:
    if random.random() < 0.3:
        return old[0], mutate_bytes(random, old[1], len(old[1]))
    kind = random.choice((U32, U32, I32, F32, F64, U64, BOOL, STRING, STRING, ARRAY))
    near = struct.unpack_from("<I", old[1])[0] if kind == U32 and len(old[1]) == 4 else "llama"
    for _ in range(20):
        try:
            if kind == ARRAY:
                inner = random.choice((U32, F32, STRING, BOOL, U64))
                return kind, array(
                    inner,
                    [1, "a"][inner == STRING : (inner == STRING) + 1] * random.choice((0, 1, 2, 288, 1000)),
                    random.choice((None, None, 5, 2**40)),
                )
            return kind, scalar(kind, any_value(random, near))
        except (struct.error, TypeError, AttributeError, OverflowError, UnicodeEncodeError):  # noqa: PERF203
            continue
    return U32, bytes(4)


def _any_tensor(random: Random, old: object) -> object:
    tensor = type(old)(**vars(old))  # type: ignore[arg-type]
    how = random.randrange(5)
    if how == 0:
        tensor.kind = random.randrange(45)
    elif how == 1:
        tensor.dims = tuple(random.choice((dim, dim, dim + 1, dim * 2, 0, 1, 2**31, 2**62)) for dim in tensor.dims)
    elif how == 2:
        tensor.dims = random.choice((tensor.dims[::-1], tensor.dims * 2, tensor.dims[:1], (), (1, *tensor.dims)))
    elif how == 3:
        tensor.offset = random.choice((0, 1, 32, 2**40, 2**64 - 32))
    else:
        tensor.nbytes = random.choice((0, 4, tensor.nbytes or 0))
    return tensor


class SplitGguf(Gguf):
    """One of three parts is damaged, left out, or another's."""

    name = "gguf-split"
    file = "s-00001-of-00003.gguf"
    commands = _with_file(file)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from tests.graph.test_split_gguf import small_parts

        self.parts = [read_raw(path) for path in small_parts(folder)]
        self.whole = [path.read_bytes() for path in sorted(folder.glob("s-*.gguf"))]

    def mutate(self, random: Random) -> None:
        for number, data in enumerate(self.whole):
            (self.folder / f"s-{number + 1:05}-of-00003.gguf").write_bytes(data)
        at = random.randrange(3)
        target = self.folder / f"s-{at + 1:05}-of-00003.gguf"
        if random.random() < 0.1:
            target.unlink()
        elif random.random() < 0.1:
            target.write_bytes(random.choice(self.whole))
        else:
            target.write_bytes(self.damaged(random, self.parts[at]))


class Apr(_Model):
    """Metadata, the list of tensors, and bytes of the header."""

    name = "apr"
    file = "m.apr"
    commands = _with_file(file)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seed: AprBytes = from_checkpoint(write_checkpoint("llama-f16", folder))

    def mutate(self, random: Random) -> None:
        file = AprBytes(dict(self.seed.metadata), dict(self.seed.tensors))
        how = random.random()
        if how < 0.5:
            file.raw_metadata = mutate_json(random, file.metadata).encode("utf-8", "surrogatepass")
        elif how < 0.7:
            name = random.choice(list(file.tensors))
            old = file.tensors[name]
            file.tensors[name] = type(old)(
                random.choice((old.code, random.randrange(256))),
                random.choice((old.dims, old.dims[::-1], (0,), (2**40, 2), old.dims * 3)),
                random.choice((old.data, old.data[:-1], b"")),
            )
        packed = file.pack()
        self.path.write_bytes(mutate_bytes(random, packed, 64 + 4000) if how > 0.7 else packed)


class _Checkpoint(_Model):
    checkpoint = "llama-f16"
    file = f"{checkpoint}/config.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.place = write_checkpoint(self.checkpoint, folder)


class Config(_Checkpoint):
    """config.json, with what quantising and ropes may add."""

    name = "config"
    commands = _with_file("llama-f16")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seed = json.loads(self.path.read_text())
        self.more = [
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
            {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}},
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}}, "format": "pack-quantized", "ignore": ["lm_head"]}},
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
            {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
            {},
        ]  # fmt: skip
        self.kinds = [json.loads(path.read_text()) for path in sorted(CHECKPOINTS.glob("*/config.json"))] or [self.seed]

    def mutate(self, random: Random) -> None:
        document = {**(self.seed if random.random() < 0.7 else random.choice(self.kinds)), **random.choice(self.more)}
        self.path.write_text(mutate_json(random, document), encoding="utf-8", errors="surrogatepass")


class Safetensors(_Checkpoint):
    """The header of model.safetensors, its length, and the index of several."""

    name = "safetensors"
    file = "llama-f16/model.safetensors"
    commands = _with_file("llama-f16")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        whole = self.path.read_bytes()
        size = int.from_bytes(whole[:8], "little")
        self.header, self.data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
        self.index = {"metadata": {"total_size": len(self.data)}, "weight_map": dict.fromkeys(self.header, "model.safetensors")}

    def mutate(self, random: Random) -> None:
        index = self.path.with_name("model.safetensors.index.json")
        index.unlink(missing_ok=True)
        how = random.random()
        header = json.dumps(self.header) if how > 0.7 else mutate_json(random, self.header)
        raw = header.encode("utf-8", "surrogatepass")
        size = len(raw) if how < 0.6 or how > 0.8 else random.choice((0, 1, len(raw) - 1, len(raw) + 1, 2**32, 2**63, 2**64 - 1))
        self.path.write_bytes(size.to_bytes(8, "little") + raw + self.data)
        if how > 0.7:
            index.write_text(mutate_json(random, self.index), encoding="utf-8", errors="surrogatepass")


class TokenizerJson(_Checkpoint):
    """tokenizer.json and tokenizer_config.json."""

    name = "tokenizer"
    file = "llama-f16/tokenizer.json"
    commands = (
        "run llama-f16 --target reference --taps embedding --prompt ab -o out",
        "run llama-f16 --target reference --taps embedding --chat -o out",
        "check llama-f16",
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        vocabulary = int(json.loads((self.place / "config.json").read_text())["vocab_size"])
        characters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
        texts = dict.fromkeys(["<s>", "</s>", *characters, "Ġ", "ab", "Ġa"])
        vocab = {text: number for number, text in enumerate(list(texts)[:vocabulary])}
        self.seed = {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
            "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": [["a", "b"]]},
        }  # fmt: skip
        self.settings = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "add_bos_token": True,
            "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
        }

    def mutate(self, random: Random) -> None:
        other = self.path.with_name("tokenizer_config.json")
        how = random.random()
        self.path.write_text(
            json.dumps(self.seed) if how > 0.75 else mutate_json(random, self.seed), encoding="utf-8", errors="surrogatepass"
        )
        other.write_text(
            mutate_json(random, self.settings) if how > 0.7 else json.dumps(self.settings), encoding="utf-8", errors="surrogatepass"
        )

    def read(self) -> None:
        tokenizer = load_tokenizer(load_model(self.place).file.metadata)
        tokenizer.decode(tokenizer.encode("ab é"))


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
