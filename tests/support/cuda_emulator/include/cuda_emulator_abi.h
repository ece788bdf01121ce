// What the engine and a kernel library that toolchain/ has compiled say to each other.
//
// A kernel library imports nothing: it exports one table, cuda_emulator_module, with two pointers in it that the engine sets.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { cuda_emulator_abi = 1 };

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// What one emulated thread sees of itself.
struct cuda_emulator_thread {
  uint3 thread_index, block_index;
  dim3 block_size, grid_size;
  unsigned lane;
  int poison;  // the byte that fresh arrays are filled with
};

// What kernels call. `line` is that of the CUDA source; threads that meet must meet at the same one.
struct cuda_emulator_engine {
  void (*sync_threads)(int line);
  void (*sync_warp)(int line, unsigned mask);
  // The `value` that lane `source` gave at the same call.
  uint64_t (*exchange)(int line, const char* function, unsigned mask, uint64_t value, unsigned source);
  // The values of all lanes of the mask, 0 elsewhere, into `values`.
  void (*gather)(int line, const char* function, unsigned mask, uint64_t value, uint64_t values[32]);
  unsigned (*live_lanes)();
  // Storage of a __shared__ variable: the same for all threads of a block. `site` tells the variables of a library apart.
  void* (*shared)(int site, const char* name, size_t size, size_t alignment);
  void* (*dynamic_shared)();
  // Ends the launch with an error. `line` 0: not known.
  void (*trap)(int line, const char* what, const char* type, uint64_t value);
};

struct cuda_emulator_parameter {
  const char* name;
  const char* type;
  size_t size;
};

struct cuda_emulator_kernel {
  const char* name;
  void (*run)(void** arguments);  // one thread of it; the arguments as cuLaunchKernel takes them
  const cuda_emulator_parameter* parameters;
  size_t parameter_count;
  unsigned most_threads;  // of __launch_bounds__; 0: not given
};

struct cuda_emulator_module_table {
  int abi;
  const cuda_emulator_kernel* kernels;
  size_t kernel_count;
  const cuda_emulator_engine** engine;
  const cuda_emulator_thread** current;  // the thread that runs; the engine sets it at each switch
};
