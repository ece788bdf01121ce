// Stands in for CUDA's: half is _Float16, which rounds after each operation (-fexcess-precision=16).
#pragma once
#include <stdint.h>

using __half = _Float16;
using half = _Float16;

struct alignas(4) __half2 {
  __half x, y;
};
using half2 = __half2;
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return float(x); }
inline __half __double2half(double x) { return __half(x); }
inline __half __ushort_as_half(unsigned short x) { return __builtin_bit_cast(__half, x); }
inline unsigned short __half_as_ushort(__half x) { return __builtin_bit_cast(unsigned short, x); }
inline float2 __half22float2(__half2 x) { return {float(x.x), float(x.y)}; }

inline bool __hgt(__half x, __half y) { return x > y; }
inline bool __hlt(__half x, __half y) { return x < y; }
inline bool __hge(__half x, __half y) { return x >= y; }
inline bool __hle(__half x, __half y) { return x <= y; }
inline bool __heq(__half x, __half y) { return x == y; }
inline bool __hisnan(__half x) { return x != x; }
inline __half __hadd(__half x, __half y) { return x + y; }
inline __half __hsub(__half x, __half y) { return x - y; }
inline __half __hmul(__half x, __half y) { return x * y; }
inline __half __hdiv(__half x, __half y) { return x / y; }
inline __half __hneg(__half x) { return -x; }
inline __half __habs(__half x) { return __half(fabsf(float(x))); }
// The product of two halves and its sum with a third are exact in double but for a tail that cannot reach a rounding boundary.
inline __half __hfma(__half x, __half y, __half z) { return __half(fma(double(x), double(y), double(z))); }
