// CUDA's built-in vector types, of its sizes and alignments.
#pragma once
#include "cuda_emulator_abi.h"

#define CUDA_EMULATOR_VECTORS(T, name, align2, align4)                                                        \
  struct name##1 {                                                                                            \
    T x;                                                                                                      \
  };                                                                                                          \
  struct alignas(align2) name##2 {                                                                            \
    T x, y;                                                                                                   \
  };                                                                                                          \
  struct alignas(align4) name##4 {                                                                            \
    T x, y, z, w;                                                                                             \
  };                                                                                                          \
  inline name##1 make_##name##1(T x) { return {x}; }                                                          \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                  \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

#define CUDA_EMULATOR_VECTOR3(T, name) \
  struct name##3 {                     \
    T x, y, z;                         \
  };                                   \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }

CUDA_EMULATOR_VECTORS(signed char, char, 2, 4)
CUDA_EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
CUDA_EMULATOR_VECTORS(short, short, 4, 8)
CUDA_EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
CUDA_EMULATOR_VECTORS(int, int, 8, 16)
CUDA_EMULATOR_VECTORS(unsigned, uint, 8, 16)
CUDA_EMULATOR_VECTORS(long long, longlong, 16, 16)
CUDA_EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
CUDA_EMULATOR_VECTORS(float, float, 8, 16)
CUDA_EMULATOR_VECTORS(double, double, 16, 16)
CUDA_EMULATOR_VECTOR3(signed char, char)
CUDA_EMULATOR_VECTOR3(unsigned char, uchar)
CUDA_EMULATOR_VECTOR3(short, short)
CUDA_EMULATOR_VECTOR3(unsigned short, ushort)
CUDA_EMULATOR_VECTOR3(int, int)
CUDA_EMULATOR_VECTOR3(float, float)
CUDA_EMULATOR_VECTOR3(double, double)
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
#undef CUDA_EMULATOR_VECTORS
#undef CUDA_EMULATOR_VECTOR3
