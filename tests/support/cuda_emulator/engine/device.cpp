#include "device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "settings.h"

namespace emulator {

static const Error errors[] = {
    {success, "cudaSuccess", "CUDA_SUCCESS", "no error"},
    {invalid_value, "cudaErrorInvalidValue", "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {memory_allocation, "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {no_device, "cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {invalid_device, "cudaErrorInvalidDevice", "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {invalid_image, "cudaErrorInvalidKernelImage", "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {no_binary, "cudaErrorNoKernelImageForDevice", "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {invalid_handle, "cudaErrorInvalidResourceHandle", "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {not_found, "cudaErrorSymbolNotFound", "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {illegal_address, "cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {misaligned_address, "cudaErrorMisalignedAddress", "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {launch_failure, "cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {not_supported, "cudaErrorNotSupported", "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};
static const Error unknown = {999, "cudaErrorUnknown", "CUDA_ERROR_UNKNOWN", "unknown error"};

const Error& error_of(int code) {
  for (const Error& error : errors)
    if (error.code == code) return error;
  return unknown;
}

Device& Device::get() {
  static Device* device = new Device;  // never destroyed: what frees at the end of the process comes when it likes
  return *device;
}

int& current_device() {
  static thread_local int device = 0;
  return device;
}

void say(const std::string& line) { fprintf(stderr, "CUDA emulator: %s\n", line.c_str()); }

int Device::allocate(void** data, size_t size, Space space) {
  *data = nullptr;
  if (lost) return lost;
  if (size == 0) return success;
  int device = current_device();
  if (space == Space::device && (size > settings().memory || memory.used(device) > settings().memory - size)) return memory_allocation;
  constexpr int not_a_number = 0xff;  // as bytes of a float
  std::string label = (space == Space::device ? "device buffer " : "pinned buffer ") + std::to_string(allocations_++);
  Allocation* found = memory.allocate(size, space == Space::device ? settings().alignment : 64, space, settings().side, not_a_number,
                                      device, label);
  if (!found) return memory_allocation;
  *data = found->data;
  return success;
}

// Waits for the device, as drivers do, although the documentation does not promise it: TVM frees without waiting. Succeeds on a
// lost device: it is called by destructors, whose failure would hide the error that there was.
int Device::release(void* data, Space space) {
  if (!data) return success;
  Allocation* found = memory.at(data);
  if (!found || found->space != space) return say("free of what is not allocated"), invalid_value;
  streams.finish_all();
  memory.free(data);
  return success;
}

int Device::copy(void* to, const void* from, size_t size, void* handle, bool wait) {
  auto stream = streams.find(handle);
  if (!stream) return invalid_handle;
  if (lost) return lost;
  if (size == 0) return success;
  bool to_device = memory.contains(to, Space::device), from_device = memory.contains(from, Space::device);
  for (auto place : {static_cast<const void*>(to), from}) {
    Allocation* found = memory.find(place);
    auto begin = static_cast<const char*>(place);
    if (!found || (!found->freed && begin >= found->data && size <= found->size - size_t(begin - found->data))) continue;
    say("copy of " + std::to_string(size) + " bytes " + (place == to ? "to " : "from ") + place_in(*found, place));
    return invalid_value;
  }
  auto staged = std::make_shared<std::vector<char>>();
  bool to_pageable = !to_device && !memory.contains(to, Space::pinned);
  bool from_pageable = !from_device && !memory.contains(from, Space::pinned);
  if (from_pageable && to_device) {  // read now, since the caller may change it as soon as this returns
    auto begin = static_cast<const char*>(from);
    staged->assign(begin, begin + size);
    streams.give(stream, [=] { memcpy(to, staged->data(), size); });
  } else {
    streams.give(stream, [=] { memmove(to, from, size); });
  }
  if (wait || to_pageable || (from_pageable && !to_device)) return after(stream);
  return success;
}

int Device::launch(Launch launch, void* handle) {
  auto stream = streams.find(handle);
  if (!stream) return invalid_handle;
  if (lost) return lost;
  if (auto refused = refusal(launch); !refused.empty()) return say(refused), invalid_value;
  // The caller's arguments are gone by the time that it runs.
  auto values = std::make_shared<std::vector<uint64_t>>();
  auto pointers = std::make_shared<std::vector<void*>>();
  for (size_t i = 0; i < launch.kernel->parameter_count; i++) {
    if (launch.kernel->parameters[i].size > sizeof(uint64_t)) return say("a kernel's parameter of more than 8 bytes"), not_supported;
    values->push_back(0);
    memcpy(&values->back(), launch.arguments[i], launch.kernel->parameters[i].size);
  }
  for (uint64_t& value : *values) pointers->push_back(&value);
  launch.arguments = pointers->data();
  launch.order = settings().order;
  streams.give(stream, [this, launch, values, pointers] {
    if (lost) return;
    Outcome outcome = run(launch, memory);
    if (outcome.code) say(outcome.error);
    lost = outcome.code;
  });
  return lost;
}

int Device::after(const std::shared_ptr<Stream>& stream) {
  streams.finish(stream);
  return lost;
}

}  // namespace emulator
