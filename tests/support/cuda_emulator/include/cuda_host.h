// CUDA C++ as a host compiler sees it: what the source of kernels uses beyond C++. Included before the first line.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "cuda_emulator_abi.h"
#include "cuda_host_math.h"
#include "cuda_host_vectors.h"
#include "cuda_host_warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__
// __shared__ is not defined here: toolchain/translation.py replaces each declaration, and what it missed must not compile.

#define threadIdx (cuda_emulator_current->thread_index)
#define blockIdx (cuda_emulator_current->block_index)
#define blockDim (cuda_emulator_current->block_size)
#define gridDim (cuda_emulator_current->grid_size)
#define warpSize 32

// --- what toolchain/translation.py writes in the place of declarations

template <typename T>
struct cuda_emulator_type {  // lets a pointer to an array be written with the name of the array's type before its star
  using type = T;
};
#define CUDA_EMULATOR_SHARED(site, name, alignment, ...)       \
  *reinterpret_cast<cuda_emulator_type<__VA_ARGS__>::type*>(   \
      cuda_emulator_engine_->shared(site, name, sizeof(__VA_ARGS__), alignment))
#define CUDA_EMULATOR_DYNAMIC_SHARED(...) reinterpret_cast<__VA_ARGS__*>(cuda_emulator_engine_->dynamic_shared())
#define CUDA_EMULATOR_POISON(name) __builtin_memset(name, cuda_emulator_current->poison, sizeof(name))

// --- what -fsanitize calls: the handlers of UndefinedBehaviorSanitizer's runtime, which is not linked

namespace cuda_emulator {
struct SourceLocation {
  const char* file;
  unsigned line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  SourceLocation location;
  const TypeDescriptor* type;
  unsigned char log_alignment, access;
};
struct OutOfBounds {
  SourceLocation location;
  const TypeDescriptor *array, *index;
};
struct Overflow {
  SourceLocation location;
  const TypeDescriptor* type;
};
struct ShiftOutOfBounds {
  SourceLocation location;
  const TypeDescriptor *left, *right;
};
}  // namespace cuda_emulator

extern "C" {
__attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds_abort(cuda_emulator::OutOfBounds* data, uint64_t index) {
  cuda_emulator_engine_->trap(data->location.line, "index", data->array->name, index);
}
__attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1_abort(cuda_emulator::TypeMismatch* data, uint64_t address) {
  bool misaligned = address & ((uint64_t(1) << data->log_alignment) - 1);
  cuda_emulator_engine_->trap(data->location.line, misaligned ? "misaligned" : "object", data->type->name, address);
}
__attribute__((visibility("hidden"))) void __ubsan_handle_divrem_overflow_abort(cuda_emulator::Overflow* data, uint64_t, uint64_t) {
  cuda_emulator_engine_->trap(data->location.line, "division", data->type->name, 0);
}
__attribute__((visibility("hidden"))) void __ubsan_handle_shift_out_of_bounds_abort(
    cuda_emulator::ShiftOutOfBounds* data, uint64_t, uint64_t amount) {
  cuda_emulator_engine_->trap(data->location.line, "shift", data->left->name, amount);
}
}
