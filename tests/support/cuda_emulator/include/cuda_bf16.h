// Stands in for CUDA's: bfloat16 as bits, converted with rounding to nearest even; arithmetic is float's, rounded.
#pragma once
#include <stdint.h>

struct __nv_bfloat16 {
  uint16_t bits;

  __nv_bfloat16() = default;
  __nv_bfloat16(float x) {
    uint32_t raw = __builtin_bit_cast(uint32_t, x);
    // A NaN's payload may lie in the half that is dropped; CUDA's conversion gives 0x7fff for every NaN.
    bits = x != x ? 0x7fff : uint16_t((raw + 0x7fff + (raw >> 16 & 1)) >> 16);
  }
  explicit __nv_bfloat16(double x) : __nv_bfloat16(float_to_odd(x)) {}
  explicit __nv_bfloat16(int x) : __nv_bfloat16(double(x)) {}
  explicit __nv_bfloat16(unsigned x) : __nv_bfloat16(double(x)) {}
  explicit __nv_bfloat16(_Float16 x) : __nv_bfloat16(float(x)) {}
  operator float() const { return __builtin_bit_cast(float, uint32_t(bits) << 16); }

 private:
  // Rounded to odd, so that rounding again to bfloat16 is as if it had been rounded once.
  static float float_to_odd(double x) {
    float near = float(x);
    if (double(near) == x || near != near) return near;
    uint32_t raw = __builtin_bit_cast(uint32_t, near);
    bool above = x > 0 ? double(near) > x : double(near) < x;  // rounded away from zero
    return __builtin_bit_cast(float, (raw - above) | 1);
  }
};
using nv_bfloat16 = __nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
  __nv_bfloat162() = default;
  __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return float(x); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return __builtin_bit_cast(__nv_bfloat16, x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }

inline bool __hgt(__nv_bfloat16 x, __nv_bfloat16 y) { return float(x) > float(y); }
inline bool __hlt(__nv_bfloat16 x, __nv_bfloat16 y) { return float(x) < float(y); }
inline __nv_bfloat16 __hadd(__nv_bfloat16 x, __nv_bfloat16 y) { return float(x) + float(y); }
inline __nv_bfloat16 __hmul(__nv_bfloat16 x, __nv_bfloat16 y) { return float(x) * float(y); }
