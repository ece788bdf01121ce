// Barriers, and what the lanes of a warp exchange (CUDA C++ Programming Guide, "Warp Shuffle Functions", "Warp Vote Functions").
#pragma once
#include "cuda_emulator_abi.h"

// Of the library's table.
extern const cuda_emulator_engine* cuda_emulator_engine_;
extern const cuda_emulator_thread* cuda_emulator_current;

namespace cuda_emulator {

template <typename T>
uint64_t bits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t raw = 0;
  __builtin_memcpy(&raw, &value, sizeof value);
  return raw;
}

template <typename T>
T value(uint64_t raw) {
  T result;
  __builtin_memcpy(&result, &raw, sizeof result);
  return result;
}

inline unsigned segment(int width) { return cuda_emulator_current->lane & ~unsigned(width - 1); }

template <typename T>
T shuffle(int line, unsigned mask, T given, int source, int width = 32) {
  unsigned from = segment(width) | (unsigned(source) & unsigned(width - 1));
  return value<T>(cuda_emulator_engine_->exchange(line, "__shfl_sync", mask, bits(given), from));
}

template <typename T>
T shuffle_up(int line, unsigned mask, T given, unsigned delta, int width = 32) {
  unsigned lane = cuda_emulator_current->lane;
  unsigned from = lane - segment(width) < delta ? lane : lane - delta;
  return value<T>(cuda_emulator_engine_->exchange(line, "__shfl_up_sync", mask, bits(given), from));
}

template <typename T>
T shuffle_down(int line, unsigned mask, T given, unsigned delta, int width = 32) {
  unsigned lane = cuda_emulator_current->lane;
  unsigned from = lane + delta >= segment(width) + unsigned(width) ? lane : lane + delta;
  return value<T>(cuda_emulator_engine_->exchange(line, "__shfl_down_sync", mask, bits(given), from));
}

template <typename T>
T shuffle_xor(int line, unsigned mask, T given, int lanes, int width = 32) {
  unsigned lane = cuda_emulator_current->lane, from = lane ^ unsigned(lanes);
  if (from >= segment(width) + unsigned(width)) from = lane;
  return value<T>(cuda_emulator_engine_->exchange(line, "__shfl_xor_sync", mask, bits(given), from));
}

inline unsigned ballot(int line, const char* function, unsigned mask, bool predicate) {
  uint64_t values[32];
  cuda_emulator_engine_->gather(line, function, mask, predicate, values);
  unsigned result = 0;
  for (int lane = 0; lane < 32; lane++) result |= unsigned(values[lane]) << lane;
  return result;
}

template <typename T, typename Combine>
T reduce(int line, const char* function, unsigned mask, T given, Combine combine) {
  uint64_t values[32];
  cuda_emulator_engine_->gather(line, function, mask, bits(given), values);
  bool first = true;
  T result{};
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask >> lane & 1)) continue;
    result = first ? value<T>(values[lane]) : combine(result, value<T>(values[lane]));
    first = false;
  }
  return result;
}

inline void sync_warp(int line, unsigned mask = 0xffffffffu) { cuda_emulator_engine_->sync_warp(line, mask); }

}  // namespace cuda_emulator

// Macros, so that each call knows its line.
#define __syncthreads() cuda_emulator_engine_->sync_threads(__LINE__)
#define __syncwarp(...) cuda_emulator::sync_warp(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...) cuda_emulator::shuffle(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) cuda_emulator::shuffle_up(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) cuda_emulator::shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) cuda_emulator::shuffle_xor(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, predicate) cuda_emulator::ballot(__LINE__, "__ballot_sync", mask, predicate)
#define __any_sync(mask, predicate) (cuda_emulator::ballot(__LINE__, "__any_sync", mask, predicate) != 0)
#define __all_sync(mask, predicate) (cuda_emulator::ballot(__LINE__, "__all_sync", mask, !(predicate)) == 0)
#define __activemask() cuda_emulator_engine_->live_lanes()

#define CUDA_EMULATOR_REDUCE(mask, value, name, expression) \
  cuda_emulator::reduce(__LINE__, name, mask, value, [](auto a, auto b) { return expression; })
#define __reduce_add_sync(mask, value) CUDA_EMULATOR_REDUCE(mask, value, "__reduce_add_sync", a + b)
#define __reduce_min_sync(mask, value) CUDA_EMULATOR_REDUCE(mask, value, "__reduce_min_sync", b < a ? b : a)
#define __reduce_max_sync(mask, value) CUDA_EMULATOR_REDUCE(mask, value, "__reduce_max_sync", b > a ? b : a)
#define __reduce_and_sync(mask, value) CUDA_EMULATOR_REDUCE(mask, value, "__reduce_and_sync", a & b)
#define __reduce_or_sync(mask, value) CUDA_EMULATOR_REDUCE(mask, value, "__reduce_or_sync", a | b)
#define __reduce_xor_sync(mask, value) CUDA_EMULATOR_REDUCE(mask, value, "__reduce_xor_sync", a ^ b)

// One thread runs at a time, so nothing has to be done for these to be seen, or to be atomic.
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)

template <typename T, typename V, typename F>
T cuda_emulator_update(T* at, V operand, F next) {
  T old = *at;
  *at = next(old, T(operand));
  return old;
}
#define CUDA_EMULATOR_ATOMIC(name, expression)                             \
  template <typename T, typename V>                                        \
  T name(T* at, V operand) {                                               \
    return cuda_emulator_update(at, operand, [](T a, T b) -> T { return expression; }); \
  }
CUDA_EMULATOR_ATOMIC(atomicAdd, a + b)
CUDA_EMULATOR_ATOMIC(atomicSub, a - b)
CUDA_EMULATOR_ATOMIC(atomicMin, b < a ? b : a)
CUDA_EMULATOR_ATOMIC(atomicMax, b > a ? b : a)
CUDA_EMULATOR_ATOMIC(atomicAnd, a& b)
CUDA_EMULATOR_ATOMIC(atomicOr, a | b)
CUDA_EMULATOR_ATOMIC(atomicExch, (void(a), b))
#undef CUDA_EMULATOR_ATOMIC
template <typename T, typename A, typename B>
T atomicCAS(T* at, A expected, B desired) {
  T old = *at;
  if (old == T(expected)) *at = T(desired);
  return old;
}
