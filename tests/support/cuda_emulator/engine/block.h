// One block: its threads, where each of them waits, and its shared memory.
#pragma once
#include <map>
#include <random>
#include <string>
#include <vector>

#include "fibers.h"
#include "scheduler.h"

namespace emulator {

struct Thread {
  enum State { ready, at_barrier, in_warp, left };

  Fiber fiber;
  cuda_emulator_thread seen;
  State state;
  // Where it waits, and for an exchange what it gives and takes.
  int line;
  const char* function;
  unsigned mask;
  uint64_t value;
  unsigned source;
  uint64_t result;
  uint64_t* values;
};

class Block {
 public:
  Block(const Launch& launch, Memory& memory);
  ~Block();

  // Runs the block at `index` to its end. False: `failure` says why not.
  bool run(uint3 index);

  Thread* current = nullptr;  // the thread that runs; nullptr: none
  Outcome failure;

  // Sets the failure of the thread that runs.
  void fail(const std::string& what, int code = launch_failure);

  // --- called by the thread that runs
  void sync_threads(int line);
  uint64_t meet_warp(int line, const char* function, unsigned mask, uint64_t value, unsigned source, uint64_t* values);
  unsigned live_lanes() const;
  void* shared(int site, const char* name, size_t size, size_t alignment);
  void* dynamic_shared();

  // Whether the address is on a thread's stack, or where one would overflow.
  static bool on_stack(const void* address);

  // Where the thread that runs is: "kernel f, block (0,0,0), thread (5,0,0)".
  std::string where() const;

 private:
  static constexpr unsigned no_source = ~0u;

  void enter(unsigned index);
  void wait(Thread::State state);
  void run_warps();
  bool run_lanes(unsigned warp);
  bool release_barrier();
  bool finish_exchange(unsigned first, unsigned mask);
  void fail_waiting();
  bool wrote_around_shared();
  std::string describe(const Thread& thread) const;

  const Launch& launch_;
  Memory& memory_;
  unsigned count_;
  std::vector<Thread> threads_;
  std::vector<unsigned> warps_, lanes_;  // in the order of their turns
  Fiber scheduler_;
  std::mt19937_64 random_;
  struct Shared {
    Allocation* allocation;
    bool declared;  // in the block that runs
  };
  std::map<int, Shared> shared_;
  size_t shared_size_ = 0;
};

}  // namespace emulator
