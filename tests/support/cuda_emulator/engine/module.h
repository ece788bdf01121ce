// Kernel libraries: from a file, or from the image in memory that a driver is given.
#pragma once
#include <memory>
#include <string>

#include "cuda_emulator_abi.h"

namespace emulator {

class Module {
 public:
  // nullptr: `error` says why.
  static std::unique_ptr<Module> from_file(const char* path, std::string* error);
  // An ELF image, or a fat binary, of which the image is taken that a device of compute capability `major`.`minor` runs.
  // `no_image`: none of them is for it.
  static std::unique_ptr<Module> from_image(const void* image, int major, int minor, std::string* error, bool* no_image);
  ~Module();

  const cuda_emulator_kernel* find(const char* name) const;
  const cuda_emulator_module_table* table = nullptr;

 private:
  Module() = default;
  void* handle_ = nullptr;
  int file_ = -1;  // kept open, since the dynamic linker knows the library by a path that names it
};

// The line of the CUDA source that an instruction of a kernel library comes from; 0: not known.
int line_of(const void* instruction);

}  // namespace emulator
