// Fibers: stacks to switch between, for the threads of a block.
#pragma once
#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
 public:
  // Begins `entry(argument)` at the next switch; it must not return.
  void prepare(char* stack, size_t size, void (*entry)(void*), void* argument);
  // From the one that runs, which is `from`, to `to`.
  static void switch_to(Fiber& from, Fiber& to);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

// Stacks of equal size, each with a guard page below, kept for the next launch.
class Stacks {
 public:
  static constexpr size_t size = 256 << 10;
  char* at(size_t index);
  // Which stack the address is in or just below; -1: none.
  long find(const void* address) const;

 private:
  std::vector<char*> stacks_;
};

}  // namespace emulator
