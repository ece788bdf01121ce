// The emulated device: its memory and streams, and what it was asked to do.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "memory.h"
#include "scheduler.h"
#include "streams.h"

namespace emulator {

// Of cudaError_t and CUresult, which agree in these.
enum {
  success = 0,
  invalid_value = 1,
  memory_allocation = 2,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  no_binary = 209,
  invalid_handle = 400,
  not_found = 500,
  not_supported = 801,
};

struct Error {
  int code;
  const char *name, *driver_name, *text;
};
// The error of that code; an unknown one for others.
const Error& error_of(int code);

class Device {
 public:
  static Device& get();

  std::recursive_mutex lock;
  Memory memory;
  Streams streams;
  std::map<void*, std::unique_ptr<Event>> events;
  // Set by a fault, and then the answer to everything, as the context of a real device is lost.
  int lost = 0;

  int allocate(void** data, size_t size, Space space);
  int release(void* data, Space space);
  int copy(void* to, const void* from, size_t size, void* stream, bool wait);
  // Launches; the arguments are copied.
  int launch(Launch launch, void* stream);
  // What a function that waits returns.
  int after(const std::shared_ptr<Stream>& stream);

 private:
  uint64_t allocations_ = 0;
};

// The device that the calling thread has chosen.
int& current_device();

void say(const std::string& line);

}  // namespace emulator
