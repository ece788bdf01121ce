// What the environment says of the emulated device.
#pragma once
#include <cstddef>

#include "memory.h"
#include "scheduler.h"

namespace emulator {

// Which of the schedules that CUDA allows. What is right is right under each; what is wrong may be seen under one of them only.
enum class Schedule {
  lazy,   // what is waited for, and nothing else
  ahead,  // what is waited for, after all that the other streams can do without it
  eager,  // everything when it is given
};

struct Settings {
  size_t memory;        // APRGRAPH_EMULATED_MEMORY, bytes a device has: 2 GiB
  int major, minor;     // APRGRAPH_EMULATED_ARCH, compute capability: 8.0
  int devices;          // APRGRAPH_EMULATED_DEVICES: 1
  Schedule schedule;    // APRGRAPH_EMULATED_STREAMS, when their work is done: lazy, ahead or eager;
                        // APRGRAPH_EMULATED_EAGER=1 is short for eager
  Order order;          // APRGRAPH_EMULATED_ORDER, of threads: ascending, descending or a seed
  Side side;            // APRGRAPH_EMULATED_GUARD, which end of a buffer lies against a guard page: end or start
  size_t alignment;     // APRGRAPH_EMULATED_ALIGNMENT, to which device buffers are rounded up: 16
};

// Read once. Ends the process if one of them cannot be understood: a test that sets it must not run without it.
const Settings& settings();

}  // namespace emulator
