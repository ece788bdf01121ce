// The products of weight rows with one x as the linear kernel has them, in C: what decode.py measures the kernel against.
// Four rows at a time; lane l of a row's sum takes columns l, l + 8, ..., each decoded in registers; lanes are added by halves.
//     cc -O3 -mavx2 -mfma -mf16c -shared -fPIC -o decode_rows.so decode_rows.c

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ROWS 4

static inline float half(const uint8_t *at) {
    uint16_t bits;
    memcpy(&bits, at, 2);
    return _cvtsh_ss(bits);
}

static inline __m256 real(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }

// Eight elements from the `first`th of a part on: low or high halves of bytes, or signed bytes.
static inline __m128i nibbles(const uint8_t *at, int shift) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)at);
    return _mm_and_si128(shift ? _mm_srli_epi16(bytes, 4) : bytes, _mm_set1_epi8(15));
}

static inline __m256 add(__m256 sum, __m256 w, const float *x) { return _mm256_fmadd_ps(_mm256_loadu_ps(x), w, sum); }

// Each format: the `part`th 32 elements of a block.
static inline __m256 part_q4_0(const uint8_t *b, int part, const float *x, __m256 sum) {
    __m256 d = _mm256_set1_ps(half(b));
    (void)part;
    for (int v = 0; v < 4; v++) {
        __m256i q = _mm256_sub_epi32(_mm256_cvtepu8_epi32(nibbles(b + 2 + v % 2 * 8, v / 2)), _mm256_set1_epi32(8));
        sum = add(sum, _mm256_mul_ps(d, _mm256_cvtepi32_ps(q)), x + 8 * v);
    }
    return sum;
}

static inline __m256 part_q4_1(const uint8_t *b, int part, const float *x, __m256 sum) {
    __m256 d = _mm256_set1_ps(half(b)), m = _mm256_set1_ps(half(b + 2));
    (void)part;
    for (int v = 0; v < 4; v++)
        sum = add(sum, _mm256_fmadd_ps(d, real(nibbles(b + 4 + v % 2 * 8, v / 2)), m), x + 8 * v);
    return sum;
}

static inline __m256 part_q8_0(const uint8_t *b, int part, const float *x, __m256 sum) {
    __m256 d = _mm256_set1_ps(half(b));
    (void)part;
    for (int v = 0; v < 4; v++) {
        __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(b + 2 + 8 * v)));
        sum = add(sum, _mm256_mul_ps(d, _mm256_cvtepi32_ps(q)), x + 8 * v);
    }
    return sum;
}

static inline __m256 part_f16(const uint8_t *b, int part, const float *x, __m256 sum) {
    (void)part;
    for (int v = 0; v < 4; v++) sum = add(sum, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(b + 16 * v))), x + 8 * v);
    return sum;
}

static inline __m256 part_bf16(const uint8_t *b, int part, const float *x, __m256 sum) {
    (void)part;
    for (int v = 0; v < 4; v++) {
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(b + 16 * v))), 16);
        sum = add(sum, _mm256_castsi256_ps(bits), x + 8 * v);
    }
    return sum;
}

static inline __m256 part_q4_k(const uint8_t *b, int part, const float *x, __m256 sum) {
    const uint8_t *s = b + 4;
    int scale = part < 4 ? s[part] & 63 : (s[part + 4] & 15) | (s[part - 4] >> 6 << 4);
    int minimum = part < 4 ? s[part + 4] & 63 : (s[part + 4] >> 4) | (s[part] >> 6 << 4);
    __m256 d = _mm256_set1_ps(half(b) * (float)scale), m = _mm256_set1_ps(-(half(b + 2) * (float)minimum));
    for (int v = 0; v < 4; v++)
        sum = add(sum, _mm256_fmadd_ps(d, real(nibbles(b + 16 + part / 2 * 32 + 8 * v, part % 2)), m), x + 8 * v);
    return sum;
}

static inline __m256 part_q6_k(const uint8_t *b, int part, const float *x, __m256 sum) {
    int group = part / 4, quarter = part % 4;
    const uint8_t *low = b + group * 64 + quarter % 2 * 32, *high = b + 128 + group * 32;
    const int8_t *scales = (const int8_t *)(b + 192) + 2 * part;
    for (int v = 0; v < 4; v++) {
        __m256 d = _mm256_set1_ps(half(b + 208) * (float)scales[v / 2]);
        __m128i h = _mm_srl_epi16(_mm_loadl_epi64((const __m128i *)(high + 8 * v)), _mm_cvtsi32_si128(2 * quarter));
        h = _mm_slli_epi16(_mm_and_si128(h, _mm_set1_epi8(3)), 4);
        __m256i q = _mm256_cvtepu8_epi32(_mm_or_si128(nibbles(low + 8 * v, quarter / 2), h));
        sum = add(sum, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(32)))), x + 8 * v);
    }
    return sum;
}

static inline float total(__m256 sum) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// out[r] = w[r] · x for `rows` rows, a multiple of ROWS, of `columns` elements in blocks of so many bytes and elements.
#define PRODUCTS(name, bytes, elements)                                                                     \
    void products_##name(const uint8_t *w, const float *x, float *out, size_t rows, size_t columns) {       \
        size_t blocks = columns / (elements), line = blocks * (bytes);                                      \
        for (size_t first = 0; first < rows; first += ROWS) {                                               \
            __m256 sums[ROWS];                                                                              \
            for (int r = 0; r < ROWS; r++) sums[r] = _mm256_setzero_ps();                                   \
            for (size_t b = 0; b < blocks; b++)                                                             \
                _Pragma("GCC unroll 8") for (int part = 0; part < (elements) / 32; part++)                  \
                    _Pragma("GCC unroll 4") for (int r = 0; r < ROWS; r++)                                  \
                        sums[r] = part_##name(w + (first + r) * line + b * (bytes), part,                   \
                                              x + b * (elements) + 32 * part, sums[r]);                     \
            for (int r = 0; r < ROWS; r++) out[first + r] = total(sums[r]);                                 \
        }                                                                                                   \
    }

PRODUCTS(q4_0, 18, 32)
PRODUCTS(q4_1, 20, 32)
PRODUCTS(q8_0, 34, 32)
PRODUCTS(f16, 64, 32)
PRODUCTS(bf16, 64, 32)
PRODUCTS(q4_k, 144, 256)
PRODUCTS(q6_k, 210, 256)

// Reading alone: the sum of all 8-byte words, so that nothing is left out.
uint64_t reading(const uint8_t *w, size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 128 <= bytes; i += 128) {
        a = _mm256_add_epi64(a, _mm256_loadu_si256((const __m256i *)(w + i)));
        b = _mm256_add_epi64(b, _mm256_loadu_si256((const __m256i *)(w + i + 32)));
        c = _mm256_add_epi64(c, _mm256_loadu_si256((const __m256i *)(w + i + 64)));
        d = _mm256_add_epi64(d, _mm256_loadu_si256((const __m256i *)(w + i + 96)));
    }
    uint64_t words[4];
    _mm256_storeu_si256((__m256i *)words, _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)));
    return words[0] + words[1] + words[2] + words[3];
}
