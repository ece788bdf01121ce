// libcuda.so.1: of the CUDA Driver API what TVM's runtime imports, and what one asks a driver about its devices.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "attributes.h"
#include "device.h"
#include "module.h"
#include "settings.h"

using namespace emulator;

namespace {
struct Function {
  std::shared_ptr<Module> module;
  const cuda_emulator_kernel* kernel;
  size_t most_dynamic_shared = most_shared;
};
struct LoadedModule {
  std::shared_ptr<Module> module;
  std::vector<std::unique_ptr<Function>> functions;
};
struct LaunchConfiguration {  // CUlaunchConfig
  unsigned grid[3], block[3], dynamic_shared;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};
}  // namespace

extern "C" {

int cuInit(unsigned) { return settings().devices ? success : no_device; }

int cuDriverGetVersion(int* version) { return *version = cuda_version, success; }

int cuDeviceGetCount(int* count) { return *count = settings().devices, success; }

int cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal >= settings().devices) return invalid_device;
  return *device = ordinal, success;
}

int cuDeviceGetName(char* name, int size, int device) {
  if (device < 0 || device >= settings().devices) return invalid_device;
  return snprintf(name, size_t(size), "%s", device_name), success;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) { return device_attribute(value, attribute, device); }

int cuGetErrorName(int code, const char** name) {
  return *name = error_of(code).driver_name, success;
}

int cuGetErrorString(int code, const char** text) { return *text = error_of(code).text, success; }

int cuModuleLoadData(void** module, const void* image) {
  Device& device = Device::get();
  std::lock_guard guard(device.lock);
  if (device.lost) return device.lost;
  std::string error;
  bool no_image;
  auto loaded = Module::from_image(image, settings().major, settings().minor, &error, &no_image);
  if (!loaded) return say("cuModuleLoadData: " + error), no_image ? no_binary : invalid_image;
  *module = new LoadedModule{std::move(loaded), {}};
  return success;
}

int cuModuleUnload(void* module) {
  Device& device = Device::get();
  std::lock_guard guard(device.lock);
  device.streams.finish_all();
  delete static_cast<LoadedModule*>(module);
  return success;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  std::lock_guard guard(Device::get().lock);
  auto loaded = static_cast<LoadedModule*>(module);
  const cuda_emulator_kernel* kernel = loaded->module->find(name);
  if (!kernel) return not_found;
  loaded->functions.push_back(std::make_unique<Function>(Function{loaded->module, kernel}));
  return *function = loaded->functions.back().get(), success;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  constexpr int max_dynamic_shared = 8;
  if (attribute == max_dynamic_shared) {
    if (value > most_shared_opt_in) return invalid_value;
    static_cast<Function*>(function)->most_dynamic_shared = size_t(value);
  }
  return success;
}

int cuLaunchKernelEx(const LaunchConfiguration* configuration, void* handle, void** arguments, void** extra) {
  Device& device = Device::get();
  std::lock_guard guard(device.lock);
  auto function = static_cast<Function*>(handle);
  const unsigned *grid = configuration->grid, *block = configuration->block;
  if (extra) return not_supported;
  if (configuration->dynamic_shared > function->most_dynamic_shared) {
    say("kernel " + std::string(function->kernel->name) + ": " + std::to_string(configuration->dynamic_shared) +
        " bytes of dynamic shared memory; at most " + std::to_string(function->most_dynamic_shared));
    return invalid_value;
  }
  Launch launch{.kernel = function->kernel,
                .table = function->module->table,
                .grid = {grid[0], grid[1], grid[2]},
                .block = {block[0], block[1], block[2]}};
  launch.dynamic_shared = configuration->dynamic_shared;
  launch.arguments = arguments;
  return device.launch(launch, configuration->stream);
}

int cuTensorMapEncodeTiled(...) { return not_supported; }
}
