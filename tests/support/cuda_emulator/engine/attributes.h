// What the emulated device says of itself.
#pragma once
#include "device.h"
#include "settings.h"

namespace emulator {

constexpr int cuda_version = 13000;
constexpr const char* device_name = "emulated CUDA device";
constexpr int most_shared_opt_in = 99 << 10;  // a block's dynamic shared memory, if asked for
constexpr int multiprocessors = 4;
constexpr int registers = 65536;
constexpr int l2_cache = 4 << 20;

// cudaDeviceGetAttribute and cuDeviceGetAttribute, whose numbers agree.
inline int device_attribute(int* value, int attribute, int device) {
  if (device < 0 || device >= settings().devices) return settings().devices ? invalid_device : no_device;
  switch (attribute) {
    case 1: case 2: case 3: *value = int(most_threads); break;  // threads of a block, and by x and y
    case 4: *value = 64; break;          // by z
    case 5: *value = 0x7fffffff; break;  // blocks of a grid by x, y, z
    case 6: case 7: *value = 65535; break;
    case 8: *value = int(most_shared); break;  // a block's shared memory
    case 10: *value = 32; break;               // threads of a warp
    case 12: case 82: *value = registers; break;
    case 13: *value = 1000000; break;  // kHz
    case 16: *value = multiprocessors; break;
    case 38: *value = l2_cache; break;
    case 39: *value = 2048; break;  // threads of a multiprocessor
    case 75: *value = settings().major; break;
    case 76: *value = settings().minor; break;
    case 81: *value = 164 << 10; break;  // a multiprocessor's shared memory
    case 97: *value = most_shared_opt_in; break;
    default: *value = 0;
  }
  return success;
}

}  // namespace emulator
