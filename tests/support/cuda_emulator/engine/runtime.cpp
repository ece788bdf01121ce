// libcudart.so.13: of the CUDA Runtime API what TVM's runtime imports, and what tests of it call.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "attributes.h"
#include "device.h"
#include "settings.h"

using namespace emulator;

namespace {
thread_local int last_error = success;

int answer(int code) {
  if (code) last_error = code;
  return code;
}

// The fields of cudaDeviceProp (CUDA 13) up to the L2 cache's size; those after it are left as they were.
struct Properties {
  char name[256];
  char uuid[16], luid[8];
  unsigned luid_mask;
  size_t total_memory, shared_per_block;
  int registers_per_block, warp_size;
  size_t pitch;
  int threads_per_block, block_size[3], grid_size[3];
  size_t constant_memory;
  int major, minor;
  size_t texture_alignment[2];
  int multiprocessors, integrated, maps_host_memory, textures[30];
  size_t surface_alignment;
  int concurrent_kernels, ecc, pci[3], tcc, async_engines, unified_addressing, bus_width, l2_cache;
};
}  // namespace

#define LOCKED                   \
  Device& device = Device::get(); \
  std::lock_guard guard(device.lock)

extern "C" {

// --- devices

int cudaRuntimeGetVersion(int* version) { return *version = cuda_version, success; }
int cudaDriverGetVersion(int* version) { return *version = cuda_version, success; }

int cudaGetDeviceCount(int* count) {
  *count = settings().devices;
  return answer(settings().devices ? success : no_device);
}

int cudaSetDevice(int device) {
  if (device < 0 || device >= settings().devices) return answer(settings().devices ? invalid_device : no_device);
  return current_device() = device, success;
}

int cudaGetDevice(int* device) {
  if (!settings().devices) return answer(no_device);
  return *device = current_device(), success;
}

int cudaDeviceGetAttribute(int* value, int attribute, int device) { return answer(device_attribute(value, attribute, device)); }

int cudaGetDeviceProperties(Properties* properties, int device) {
  if (device < 0 || device >= settings().devices) return answer(invalid_device);
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, device_name);
  properties->total_memory = settings().memory;
  properties->shared_per_block = most_shared;
  properties->registers_per_block = registers;
  properties->warp_size = 32;
  properties->threads_per_block = most_threads;
  for (int i = 0; i < 3; i++) {
    device_attribute(&properties->block_size[i], 2 + i, device);
    device_attribute(&properties->grid_size[i], 5 + i, device);
  }
  properties->major = settings().major;
  properties->minor = settings().minor;
  properties->multiprocessors = multiprocessors;
  properties->l2_cache = l2_cache;
  return success;
}

int cudaDeviceSynchronize() {
  LOCKED;
  device.streams.finish_all();
  return answer(device.lost);
}

// --- errors

int cudaGetLastError() {
  int code = last_error;
  last_error = Device::get().lost;
  return code ? code : last_error;
}
int cudaPeekAtLastError() { return last_error ? last_error : Device::get().lost; }
const char* cudaGetErrorName(int code) { return error_of(code).name; }
const char* cudaGetErrorString(int code) { return error_of(code).text; }

// --- memory

int cudaMalloc(void** data, size_t size) {
  LOCKED;
  return answer(device.allocate(data, size, Space::device));
}

int cudaMallocHost(void** data, size_t size) {
  LOCKED;
  return answer(device.allocate(data, size, Space::pinned));
}

int cudaFree(void* data) {
  LOCKED;
  return answer(device.release(data, Space::device));
}

int cudaFreeHost(void* data) {
  LOCKED;
  return answer(device.release(data, Space::pinned));
}

int cudaMemGetInfo(size_t* free, size_t* total) {
  LOCKED;
  *total = settings().memory;
  *free = settings().memory - device.memory.used(current_device());
  return answer(device.lost);
}

int cudaMemcpy(void* to, const void* from, size_t size, int) {
  LOCKED;
  return answer(device.copy(to, from, size, nullptr, true));
}

int cudaMemcpyAsync(void* to, const void* from, size_t size, int, void* stream) {
  LOCKED;
  return answer(device.copy(to, from, size, stream, false));
}

int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, void* stream) {
  LOCKED;
  return answer(device.copy(to, from, size, stream, false));
}

// --- streams and events

int cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  LOCKED;
  constexpr unsigned non_blocking = 1;
  if (device.lost) return answer(device.lost);
  return *stream = device.streams.create(!(flags & non_blocking)).get(), success;
}

int cudaStreamCreate(void** stream) { return cudaStreamCreateWithFlags(stream, 0); }

int cudaStreamDestroy(void* handle) {
  LOCKED;
  if (!device.streams.find(handle)) return answer(invalid_handle);
  return device.streams.destroy(handle), success;
}

int cudaStreamSynchronize(void* handle) {
  LOCKED;
  auto stream = device.streams.find(handle);
  return answer(stream ? device.after(stream) : invalid_handle);
}

int cudaStreamWaitEvent(void* handle, void* event, unsigned) {
  LOCKED;
  auto stream = device.streams.find(handle);
  auto found = device.events.find(event);
  if (!stream || found == device.events.end()) return answer(invalid_handle);
  device.streams.wait(stream, *found->second);
  return answer(device.lost);
}

int cudaEventCreate(void** event) {
  LOCKED;
  auto created = std::make_unique<Event>();
  *event = created.get();
  device.events[*event] = std::move(created);
  return success;
}

int cudaEventCreateWithFlags(void** event, unsigned) { return cudaEventCreate(event); }

int cudaEventDestroy(void* event) {
  LOCKED;
  return answer(device.events.erase(event) ? success : invalid_handle);
}

int cudaEventRecord(void* event, void* handle) {
  LOCKED;
  auto stream = device.streams.find(handle);
  auto found = device.events.find(event);
  if (!stream || found == device.events.end()) return answer(invalid_handle);
  device.streams.record(*found->second, stream);
  return answer(device.lost);
}

int cudaEventSynchronize(void* event) {
  LOCKED;
  auto found = device.events.find(event);
  if (found == device.events.end()) return answer(invalid_handle);
  device.streams.finish(*found->second);
  return answer(device.lost);
}

int cudaEventElapsedTime(float* milliseconds, void* start, void* stop) {
  LOCKED;
  constexpr int not_ready = 600;
  auto first = device.events.find(start), second = device.events.find(stop);
  if (first == device.events.end() || second == device.events.end()) return answer(invalid_handle);
  for (auto* event : {first->second.get(), second->second.get()}) {
    if (!event->recorded) return answer(invalid_handle);
    if (event->point.stream->done < event->point.number) return answer(not_ready);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(*second->second->time - *first->second->time).count();
  return success;
}

// --- graphs: not emulated

int cudaStreamBeginCapture(void*, int) { return answer(not_supported); }
int cudaStreamEndCapture(void*, void**) { return answer(not_supported); }
int cudaGraphInstantiate(void**, void*, unsigned long long) { return answer(not_supported); }
int cudaGraphLaunch(void*, void*) { return answer(not_supported); }
int cudaGraphDestroy(void*) { return answer(not_supported); }
int cudaGraphExecDestroy(void*) { return answer(not_supported); }
}
