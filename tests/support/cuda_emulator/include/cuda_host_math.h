// CUDA's math functions over the host's libm, declared one by one: <cmath> takes longer to read than a kernel to compile.
//
// Exact on both sides: the IEEE operations, sqrt, fma, rounding, min and max. The others differ from a GPU's in the last places
// (CUDA C++ Programming Guide, "Mathematical Functions"). The fast approximations (__expf, __fdividef) are left out on purpose.
#pragma once

#define CUDA_EMULATOR_UNARY(name)                  \
  extern "C" double name(double) noexcept;         \
  extern "C" float name##f(float) noexcept;        \
  inline float name(float x) { return name##f(x); }
CUDA_EMULATOR_UNARY(acos)
CUDA_EMULATOR_UNARY(acosh)
CUDA_EMULATOR_UNARY(asin)
CUDA_EMULATOR_UNARY(asinh)
CUDA_EMULATOR_UNARY(atan)
CUDA_EMULATOR_UNARY(atanh)
CUDA_EMULATOR_UNARY(cbrt)
CUDA_EMULATOR_UNARY(ceil)
CUDA_EMULATOR_UNARY(cos)
CUDA_EMULATOR_UNARY(cosh)
CUDA_EMULATOR_UNARY(erf)
CUDA_EMULATOR_UNARY(exp)
CUDA_EMULATOR_UNARY(exp2)
CUDA_EMULATOR_UNARY(expm1)
CUDA_EMULATOR_UNARY(fabs)
CUDA_EMULATOR_UNARY(floor)
CUDA_EMULATOR_UNARY(log)
CUDA_EMULATOR_UNARY(log10)
CUDA_EMULATOR_UNARY(log1p)
CUDA_EMULATOR_UNARY(log2)
CUDA_EMULATOR_UNARY(nearbyint)
CUDA_EMULATOR_UNARY(rint)
CUDA_EMULATOR_UNARY(round)
CUDA_EMULATOR_UNARY(sin)
CUDA_EMULATOR_UNARY(sinh)
CUDA_EMULATOR_UNARY(sqrt)
CUDA_EMULATOR_UNARY(tan)
CUDA_EMULATOR_UNARY(tanh)
CUDA_EMULATOR_UNARY(trunc)
#undef CUDA_EMULATOR_UNARY

#define CUDA_EMULATOR_BINARY(name)                   \
  extern "C" double name(double, double) noexcept;   \
  extern "C" float name##f(float, float) noexcept;   \
  inline float name(float x, float y) { return name##f(x, y); }
CUDA_EMULATOR_BINARY(atan2)
CUDA_EMULATOR_BINARY(copysign)
CUDA_EMULATOR_BINARY(fmax)
CUDA_EMULATOR_BINARY(fmin)
CUDA_EMULATOR_BINARY(fmod)
CUDA_EMULATOR_BINARY(hypot)
CUDA_EMULATOR_BINARY(nextafter)
CUDA_EMULATOR_BINARY(pow)
#undef CUDA_EMULATOR_BINARY

extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
extern "C" double ldexp(double, int) noexcept;
extern "C" float ldexpf(float, int) noexcept;
inline float ldexp(float x, int exponent) { return ldexpf(x, exponent); }
extern "C" int abs(int) noexcept;
extern "C" long labs(long) noexcept;
inline long abs(long x) { return labs(x); }
inline long long abs(long long x) { return x < 0 ? -x : x; }
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float exp10f(float x) { return powf(10.0f, x); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }

// As CUDA's overloads: a NaN beside a number gives the number; signed with unsigned compares as unsigned.
#define CUDA_EMULATOR_EXTREMES(T)                        \
  inline T min(T a, T b) { return b < a ? b : a; }       \
  inline T max(T a, T b) { return a < b ? b : a; }
CUDA_EMULATOR_EXTREMES(int)
CUDA_EMULATOR_EXTREMES(unsigned)
CUDA_EMULATOR_EXTREMES(long)
CUDA_EMULATOR_EXTREMES(unsigned long)
CUDA_EMULATOR_EXTREMES(long long)
CUDA_EMULATOR_EXTREMES(unsigned long long)
#undef CUDA_EMULATOR_EXTREMES
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }

#define CUDA_EMULATOR_REINTERPRET(name, From, To) \
  inline To name(From x) {                        \
    To result;                                    \
    __builtin_memcpy(&result, &x, sizeof result); \
    return result;                                \
  }
CUDA_EMULATOR_REINTERPRET(__int_as_float, int, float)
CUDA_EMULATOR_REINTERPRET(__uint_as_float, unsigned, float)
CUDA_EMULATOR_REINTERPRET(__float_as_int, float, int)
CUDA_EMULATOR_REINTERPRET(__float_as_uint, float, unsigned)
CUDA_EMULATOR_REINTERPRET(__longlong_as_double, long long, double)
CUDA_EMULATOR_REINTERPRET(__double_as_longlong, double, long long)
#undef CUDA_EMULATOR_REINTERPRET

inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rz(float x) { return int(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __mulhi(int x, int y) { return int((long long)x * y >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((unsigned long long)x * y >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    unsigned nibble = selector >> 4 * i & 15, byte = unsigned(bytes >> 8 * (nibble & 7)) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}

template <typename T>
T __ldg(const T* at) {
  return *at;
}
