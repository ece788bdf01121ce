#include "module.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulator {

std::unique_ptr<Module> Module::from_file(const char* path, std::string* error) {
  std::unique_ptr<Module> module(new Module);
  module->handle_ = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!module->handle_) return *error = dlerror(), nullptr;
  module->table = static_cast<const cuda_emulator_module_table*>(dlsym(module->handle_, "cuda_emulator_module"));
  if (!module->table || module->table->abi != cuda_emulator_abi) return *error = "not a kernel library of this emulator", nullptr;
  return module;
}

static size_t elf_size(const char* image) {
  auto header = reinterpret_cast<const Elf64_Ehdr*>(image);
  return header->e_shoff + size_t(header->e_shnum) * header->e_shentsize;  // the linker puts this table last
}

namespace {
struct FatHeader {
  uint32_t magic;
  uint16_t version, header_size;
  uint64_t size;
};
struct FatEntry {
  uint16_t kind, version;
  uint32_t header_size;
  uint64_t size;
  uint64_t unused;
  uint16_t minor, major;
  uint32_t architecture;
};
}  // namespace
static constexpr uint32_t fat_magic = 0xBA55ED50;
enum { ptx = 1, sass = 2 };

// The machine code for the device, else, if there is PTX for it, any machine code: here it is all compiled from the same source.
static const char* choose(const char* image, int major, int minor) {
  auto header = reinterpret_cast<const FatHeader*>(image);
  const char *at = image + header->header_size, *end = at + header->size;
  const char *exact = nullptr, *any = nullptr;
  bool has_ptx = false;
  while (at < end) {
    auto entry = reinterpret_cast<const FatEntry*>(at);
    int entry_major = int(entry->architecture) / 10, entry_minor = int(entry->architecture) % 10;
    const char* payload = at + entry->header_size;
    if (entry->kind == sass) {
      any = payload;
      if (entry_major == major && entry_minor <= minor) exact = payload;
    } else if (entry->kind == ptx) {
      has_ptx |= entry_major * 10 + entry_minor <= major * 10 + minor;
    }
    at = payload + entry->size;
  }
  return exact ? exact : has_ptx ? any : nullptr;
}

std::unique_ptr<Module> Module::from_image(const void* given, int major, int minor, std::string* error, bool* no_image) {
  auto image = static_cast<const char*>(given);
  *no_image = false;
  if (reinterpret_cast<const FatHeader*>(image)->magic == fat_magic) {
    image = choose(image, major, minor);
    if (!image) return *no_image = true, *error = "the fat binary has no image that this device runs", nullptr;
  }
  if (memcmp(image, ELFMAG, SELFMAG)) return *error = "neither a fat binary nor an ELF image", nullptr;
  size_t size = elf_size(image);
  int file = memfd_create("cuda-emulator-kernels", MFD_CLOEXEC);
  uint16_t machine = EM_X86_64;  // in a fat binary it says CUDA
#if defined(__aarch64__)
  machine = EM_AARCH64;
#endif
  bool written = file >= 0 && write(file, image, size) == ssize_t(size) &&
                 pwrite(file, &machine, sizeof machine, offsetof(Elf64_Ehdr, e_machine)) == sizeof machine;
  if (!written) return *error = "no memory for the image", nullptr;
  auto module = from_file(("/proc/self/fd/" + std::to_string(file)).c_str(), error);
  if (module) module->file_ = file;
  else close(file);
  return module;
}

int line_of(const void* instruction) {
  Dl_info info;
  if (!instruction || !dladdr(instruction, &info) || !info.dli_fname) return 0;
  std::string path = info.dli_fname, own = "/proc/self/";
  if (path.starts_with(own)) path = "/proc/" + std::to_string(getpid()) + "/" + path.substr(own.size());
  char command[512];
  snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null", path.c_str(),
           size_t(static_cast<const char*>(instruction) - static_cast<const char*>(info.dli_fbase)));
  FILE* pipe = popen(command, "r");
  if (!pipe) return 0;
  char text[512];
  int line = 0;
  // Innermost first; headers' lines are of no interest.
  while (fgets(text, sizeof text, pipe))
    if (const char* found = strstr(text, "kernels.cu:"); found && !line) line = atoi(found + strlen("kernels.cu:"));
  pclose(pipe);
  return line;
}

Module::~Module() {
  if (handle_) dlclose(handle_);
  if (file_ >= 0) close(file_);
}

const cuda_emulator_kernel* Module::find(const char* name) const {
  for (size_t i = 0; i < table->kernel_count; i++)
    if (!strcmp(table->kernels[i].name, name)) return &table->kernels[i];
  return nullptr;
}

}  // namespace emulator
