// Runs a grid: its blocks one after another, the threads of a block as fibers that meet at barriers.
#pragma once
#include <cstdint>
#include <string>

#include "cuda_emulator_abi.h"
#include "memory.h"

namespace emulator {

// In which order the threads of a block, and the blocks, take their turns.
struct Order {
  enum Kind { ascending, descending, shuffled } kind = ascending;
  uint64_t seed = 0;
  // "ascending", "descending" or a seed. False: it is none of these.
  static bool parse(const char* text, Order* order);
};

struct Launch {
  const cuda_emulator_kernel* kernel;
  const cuda_emulator_module_table* table;
  dim3 grid, block;
  size_t dynamic_shared = 0;
  void** arguments = nullptr;
  Order order{};
  int poison = 0xff;
};

constexpr unsigned most_threads = 1024;
constexpr size_t most_shared = 48 << 10;  // static shared memory of a block, and dynamic where no more was asked for

// Why the device would refuse the launch; "" if it would not.
std::string refusal(const Launch& launch);

// How a launch ended: 0, or an error code of CUDA and what happened: a fault, or a barrier that not all threads came to.
struct Outcome {
  int code = 0;
  std::string error;
  bool afterwards = false;  // nothing stopped it; what it wrote around a buffer was seen at its end
};
enum { illegal_address = 700, misaligned_address = 716, launch_failure = 719 };

// Runs it. One at a time.
Outcome run(const Launch& launch, Memory& memory);

}  // namespace emulator
