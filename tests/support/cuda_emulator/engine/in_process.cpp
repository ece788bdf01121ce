// The engine for Python (kernels.py): launches without a driver, on buffers that the caller lays out.
#include <cstring>
#include <mutex>

#include "device.h"
#include "module.h"

using namespace emulator;

static int fail(char* message, size_t size, const std::string& text) {
  strncpy(message, text.c_str(), size - 1);
  message[size - 1] = 0;
  return 1;
}

extern "C" {

Module* emulator_load(const char* path, char* message, size_t size) {
  std::lock_guard guard(Device::get().lock);
  std::string error;
  auto module = Module::from_file(path, &error);
  if (!module) fail(message, size, error);
  return module.release();
}

void* emulator_allocate(size_t size, size_t alignment, int at_start, int poison) {
  std::lock_guard guard(Device::get().lock);
  auto side = at_start ? Side::start : Side::end;
  Allocation* allocation = Device::get().memory.allocate(size, alignment, Space::device, side, poison, 0, "");
  return allocation ? allocation->data : nullptr;
}

void emulator_protect(void* data, int writable) {
  std::lock_guard guard(Device::get().lock);
  Memory::protect(*Device::get().memory.at(data), writable);
}

void emulator_free(void* data) {
  std::lock_guard guard(Device::get().lock);
  Device::get().memory.free(data);
}

// 0, or with the message 1 or, where only what lies around a buffer shows that something was wrong, 2. `poison` fills arrays.
int emulator_launch(Module* module, const char* name, const unsigned grid[3], const unsigned block[3], size_t dynamic_shared,
                    void** arguments, const char* order, int poison, char* message, size_t size) {
  std::lock_guard guard(Device::get().lock);
  const cuda_emulator_kernel* kernel = module->find(name);
  if (!kernel) return fail(message, size, "no kernel " + std::string(name));
  Launch launch{kernel, module->table, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, dynamic_shared, arguments, {}, poison};
  if (!Order::parse(order, &launch.order)) return fail(message, size, "unknown order of threads: " + std::string(order));
  if (auto refused = refusal(launch); !refused.empty()) return fail(message, size, refused);
  Outcome outcome = run(launch, Device::get().memory);
  return outcome.code ? fail(message, size, outcome.error) + outcome.afterwards : 0;
}
}
