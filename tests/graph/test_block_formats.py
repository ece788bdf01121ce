"""The block decoders against the `gguf` package's, for every format."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize

from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import BLOCK_FORMATS, decode_reference, find_format, format_of_ggml_type
from tests.support.tiny import FORMATS

#: The floating-point fields of each format.
_SCALES = {
    **dict.fromkeys(("F32", "F16", "BF16"), ("x",)),
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "Q3_K", "Q6_K", "IQ4_XS"), ("d",)),
    **dict.fromkeys(("Q4_1", "Q5_1"), ("d", "m")),
    **dict.fromkeys(("Q2_K", "Q4_K", "Q5_K"), ("d", "dmin")),
    "MXFP4": (),
}
#: The field in which a byte holds the low bits of one or two elements and nothing else, and how many elements a byte holds.
_QUANTS = {
    "Q8_0": ("qs", 1),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4", "Q4_K", "Q5_K", "IQ4_XS"), ("qs", 2)),
    "Q6_K": ("ql", 2),
    **dict.fromkeys(("Q2_K", "Q3_K"), ("qs", 4)),
}
#: The `gguf` package has no quantiser for these.
_NO_QUANTISER = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
_BLOCKS = 300

each_format = pytest.mark.parametrize("fmt", BLOCK_FORMATS.values(), ids=lambda fmt: fmt.name)
each_scaled_format = pytest.mark.parametrize("fmt", [fmt for fmt in BLOCK_FORMATS.values() if _SCALES[fmt.name]], ids=lambda fmt: fmt.name)


def blocks(fmt: BlockFormat, scales: npt.NDArray[np.float32], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random bytes [blocks, bytes of a block], in which every floating-point field takes values from ``scales``."""
    generator = np.random.default_rng(seed)
    raw = generator.integers(0, 256, (_BLOCKS, fmt.block_bytes), dtype=np.uint8)
    for name in _SCALES[fmt.name]:
        start, field = fmt.offset(name), fmt.field(name)
        values = generator.choice(scales, (_BLOCKS, field.count)) * generator.choice([-1, 1], (_BLOCKS, field.count))
        is_bf16 = field.dtype == "bfloat16"
        packed = (values.astype("<f4").view("<u4") >> 16).astype("<u2") if is_bf16 else values.astype(field.dtype)
        raw[:, start : start + field.itemsize * field.count] = packed.view(np.uint8)
    return raw


def both(fmt: BlockFormat, raw: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What we decode, and what the witness does, as float64 [blocks, elements]."""
    shape = (raw.shape[0], fmt.elements)
    witness = dequantize(raw, gguf.GGMLQuantizationType[fmt.name]).reshape(shape)
    return decode_reference(fmt, raw, shape), witness.astype(np.float64)


def worst_nmse(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    """The largest relative mean square error of a block; blocks of zeros must be zeros on both sides."""
    energy = np.sum(theirs**2, axis=1)
    error = np.sum((ours - theirs) ** 2, axis=1)
    assert not error[energy == 0].any()
    return float(np.max(error[energy > 0] / energy[energy > 0]))


def test_every_format_is_tested() -> None:
    assert set(BLOCK_FORMATS) == set(FORMATS) == set(_SCALES)


@each_format
def test_sizes_and_type_numbers_are_ggmls(fmt: BlockFormat) -> None:
    kind = gguf.GGMLQuantizationType[fmt.name]
    assert format_of_ggml_type(int(kind)) is find_format(fmt.name) is fmt
    assert not fmt.is_decoded_when_bound
    assert fmt.arrives_in_blocks == (fmt.elements > 1)
    assert (fmt.elements, fmt.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert fmt.is_plain == (fmt.elements == 1)
    assert fmt.is_plain or fmt.elements % RUN == 0
    assert fmt.row_bytes(fmt.elements * 3) == 3 * fmt.block_bytes


@each_scaled_format
@pytest.mark.parametrize(
    "scales",
    [[0.01, 0.1, 1.0], [65504.0, 60000.0], [6.1e-5, 1e-4], [6e-8, 1.2e-7, 5e-5], [0.0], [0.0, 1.0, 65504.0, 6e-8]],
    ids=["usual", "largest", "smallest normal", "subnormal", "zero", "mixed"],
)
def test_random_blocks(fmt: BlockFormat, scales: list[float]) -> None:
    ours, theirs = both(fmt, blocks(fmt, np.array(scales, np.float32)))
    if scales == [0.0]:
        assert not ours.any()
        assert not theirs.any()
    else:
        assert worst_nmse(ours, theirs) < 1e-12


def test_mxfp4_at_every_scale() -> None:
    """The scale is a byte, an exponent; at the largest two of 256 the witness overflows, as f32 does."""
    fmt = BLOCK_FORMATS["MXFP4"]
    raw = np.random.default_rng(3).integers(0, 256, (252, fmt.block_bytes), dtype=np.uint8)
    raw[:, 0] = np.arange(252)
    ours, theirs = both(fmt, raw)
    assert np.array_equal(ours, theirs)
    assert sorted(set(ours[128].tolist())) == [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12]


@each_scaled_format
@pytest.mark.parametrize("byte", [0, 0x0F, 0xF0, 0x7F, 0x80, 0xFF])
def test_blocks_of_one_byte_throughout(fmt: BlockFormat, byte: int) -> None:
    """All quants, scales and minima at their ends; the floating-point fields are 0.5."""
    raw = blocks(fmt, np.array([0.5], np.float32))
    keep = np.zeros(fmt.block_bytes, bool)
    for name in _SCALES[fmt.name]:
        keep[fmt.offset(name) : fmt.offset(name) + fmt.field(name).itemsize * fmt.field(name).count] = True
    raw[:, ~keep] = byte
    ours, theirs = both(fmt, raw)
    assert np.array_equal(ours, theirs) or worst_nmse(ours, theirs) < 1e-12


@each_format
def test_each_element_is_read_from_its_own_bits(fmt: BlockFormat) -> None:
    """Two elements of a block never depend on each other's quants: changing one byte changes at most the elements in it."""
    raw = blocks(fmt, np.array([1.0], np.float32))[:1]
    quants, each = _QUANTS.get(fmt.name, ("x", 1))
    start, field = fmt.offset(quants), fmt.field(quants)
    before = decode_reference(fmt, raw, (1, fmt.elements))
    changed = np.zeros(fmt.elements, int)
    for index in range(field.count * field.itemsize):
        other = raw.copy()
        other[0, start + index] ^= 0x55 if each == 4 else 0x11
        differs = (decode_reference(fmt, other, (1, fmt.elements)) != before)[0]
        assert differs.sum() <= each
        changed += differs
    most = field.itemsize if fmt.is_plain else 1
    # A sub-block whose scale is 0 does not change.
    assert changed.min() >= 1 or fmt.elements == 256
    assert changed.max() <= most


@each_scaled_format
@pytest.mark.parametrize("special", [np.nan, np.inf], ids=["nan", "inf"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_scales_that_are_not_finite_stay_so(fmt: BlockFormat, special: float) -> None:
    """A damaged weight must show as NaN or Inf where ggml shows one."""
    ours, theirs = both(fmt, blocks(fmt, np.array([special, 1.0], np.float32)))
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.array_equal(np.isinf(ours), np.isinf(theirs))
    assert not np.isfinite(ours).all()


@each_format
def test_what_the_witness_quantises_decodes_near_the_original(fmt: BlockFormat) -> None:
    """The bound is half a step of a block whose largest value is about 4 sigma."""
    if fmt.name in _NO_QUANTISER:
        with pytest.raises(NotImplementedError):
            gguf.quants.quantize(np.ones((1, 256), np.float32), gguf.GGMLQuantizationType[fmt.name])
        return
    values = np.random.default_rng(1).standard_normal((8, 512)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[fmt.name]).view(np.uint8)
    error = np.mean((decode_reference(fmt, raw, (8, 512)) - values) ** 2)
    assert (
        error
        <= {"F32": 0, "F16": 1e-7, "BF16": 1e-5, "Q8_0": 1e-4, "Q4_0": 1.2e-2, "Q4_1": 8e-3, "Q5_0": 3e-3, "Q5_1": 2e-3, "MXFP4": 2e-2}[
            fmt.name
        ]
    )


@each_format
def test_rows_keep_their_order_and_shape(fmt: BlockFormat) -> None:
    raw = blocks(fmt, np.array([0.5, 2.0], np.float32))
    whole = decode_reference(fmt, raw[:12], (3, 4, fmt.elements))
    assert whole.dtype == np.float64
    assert np.array_equal(whole[2, 1], decode_reference(fmt, raw[9:10], (fmt.elements,)))


def test_other_formats_are_decoded_by_the_gguf_package() -> None:
    fmt = find_format("IQ2_XS")
    assert fmt is not None
    assert (fmt.name, fmt.ggml_type, fmt.elements, fmt.block_bytes) == ("IQ2_XS", 17, 256, 74)
    assert fmt.is_decoded_when_bound
    assert not fmt.arrives_in_blocks
    raw = np.random.default_rng(5).integers(0, 256, (6, 74), dtype=np.uint8)
    raw[:, 1] = 0x2F  # the upper byte of the scale: about 0.1
    ours = decode_reference(fmt, raw, (3, 2, 256))
    assert np.array_equal(ours.reshape(6, 256), dequantize(raw, gguf.GGMLQuantizationType.IQ2_XS))


def test_formats_that_nothing_decodes_are_not_found() -> None:
    assert find_format("Q8_1") is None
    assert format_of_ggml_type(9) is None
    assert format_of_ggml_type(9999) is None


@pytest.mark.filterwarnings("error")
def test_a_scale_that_is_inf_is_no_warning() -> None:
    """Inf times 0 is NaN, which `aprgraph check` counts; a line of NumPy's on stderr says nothing to anybody."""
    fmt = find_format("Q5_1")
    raw = np.zeros((1, fmt.block_bytes), np.uint8)
    raw[0, :2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    assert np.isnan(decode_reference(fmt, raw, (fmt.elements,))).all()
