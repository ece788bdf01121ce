#include "scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "block.h"
#include "faults.h"
#include "module.h"

namespace emulator {

bool Order::parse(const char* text, Order* order) {
  char* end = nullptr;
  if (!strcmp(text, "ascending")) return *order = {ascending, 0}, true;
  if (!strcmp(text, "descending")) return *order = {descending, 0}, true;
  *order = {shuffled, strtoull(text, &end, 10)};
  return end != text && *end == 0;
}

std::string refusal(const Launch& launch) {
  const dim3 &grid = launch.grid, &block = launch.block;
  std::string kernel = "kernel " + std::string(launch.kernel->name) + ": ";
  auto text = [](const dim3& size) { return std::to_string(size.x) + " x " + std::to_string(size.y) + " x " + std::to_string(size.z); };
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    return kernel + "a grid of " + text(grid) + " blocks; 1 to 2147483647 x 65535 x 65535 are allowed";
  size_t threads = size_t(block.x) * block.y * block.z;
  if (!threads || block.x > most_threads || block.y > most_threads || block.z > 64 || threads > most_threads)
    return kernel + "blocks of " + text(block) + " threads; 1 to " + std::to_string(most_threads) + " are allowed";
  if (launch.kernel->most_threads && threads > launch.kernel->most_threads)
    return kernel + "blocks of " + std::to_string(threads) + " threads; __launch_bounds__ says at most " +
           std::to_string(launch.kernel->most_threads);
  return "";
}

static Block* running;

static const cuda_emulator_engine engine = {
    .sync_threads = [](int line) { running->sync_threads(line); },
    .sync_warp = [](int line, unsigned mask) { running->meet_warp(line, "__syncwarp", mask, 0, ~0u, nullptr); },
    .exchange = [](int line, const char* function, unsigned mask, uint64_t value,
                   unsigned source) { return running->meet_warp(line, function, mask, value, source, nullptr); },
    .gather = [](int line, const char* function, unsigned mask, uint64_t value,
                 uint64_t values[32]) { running->meet_warp(line, function, mask, value, ~0u, values); },
    .live_lanes = [] { return running->live_lanes(); },
    .shared = [](int site, const char* name, size_t size, size_t alignment) { return running->shared(site, name, size, alignment); },
    .dynamic_shared = [] { return running->dynamic_shared(); },
    .trap =
        [](int line, const char* what, const char* type, uint64_t value) {
          char text[256];
          if (!strcmp(what, "index"))
            snprintf(text, sizeof text, "index %lld is outside of an array of type %s", (long long)value, type);
          else if (!strcmp(what, "misaligned"))
            snprintf(text, sizeof text, "misaligned address %#llx for type %s", (unsigned long long)value, type);
          else if (!strcmp(what, "object"))
            snprintf(text, sizeof text, "access to type %s outside of the array that it began in", type);
          else
            snprintf(text, sizeof text, "%s of type %s by %lld", what, type, (long long)value);
          running->fail("line " + std::to_string(line) + ": " + text, strcmp(what, "misaligned") ? illegal_address : misaligned_address);
          leave_launch();
        },
};

static void run_blocks(Block& block, const Launch& launch) {
  const dim3& grid = launch.grid;
  size_t count = size_t(grid.x) * grid.y * grid.z;
  std::vector<uint32_t> shuffled;
  if (launch.order.kind == Order::shuffled) {
    shuffled.resize(count);
    std::iota(shuffled.begin(), shuffled.end(), 0);
    std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937_64(launch.order.seed));
  }
  for (size_t i = 0; i < count; i++) {
    size_t at = launch.order.kind == Order::descending ? count - 1 - i : launch.order.kind == Order::shuffled ? shuffled[i] : i;
    if (!block.run({unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)})) return;
  }
}

// Calls `visit(name, pointer)` for each argument that is a pointer, named "argument 2 (x)", until it returns a text; returns that.
template <typename Visit>
static std::string visit_pointers(const Launch& launch, Visit visit) {
  for (size_t i = 0; i < launch.kernel->parameter_count; i++) {
    const cuda_emulator_parameter& parameter = launch.kernel->parameters[i];
    if (parameter.type[strlen(parameter.type) - 1] != '*') continue;
    std::string name = "argument " + std::to_string(i) + " (" + parameter.name + ")";
    if (std::string found = visit(name, *static_cast<void**>(launch.arguments[i])); !found.empty()) return found;
  }
  return "";
}

// The name of the first that points into the allocation; "" for none.
static std::string argument_in(const Launch& launch, Memory& memory, const Allocation* allocation) {
  return visit_pointers(launch, [&](const std::string& name, void* pointer) { return memory.find(pointer) == allocation ? name : ""; });
}

static std::string describe(const Launch& launch, const Fault& fault, const Block& block, Memory& memory) {
  char hexadecimal[32];
  snprintf(hexadecimal, sizeof hexadecimal, "%p", fault.address);
  int line = line_of(fault.instruction);
  std::string text = block.where() + ": " + (line ? "line " + std::to_string(line) + ": " : "");
  if (fault.kind == Fault::arithmetic) return text + "division of integers";
  if (fault.kind == Fault::trap) return text + "trap";
  text += fault.kind == Fault::write ? "invalid write" : "invalid read";
  Allocation* found = memory.find(fault.address);
  if (!found) return text + " at " + hexadecimal + (Block::on_stack(fault.address) ? ", beyond the thread's stack" : ", which is in no buffer");
  return text + " at " + hexadecimal + ", " + place_in(*found, fault.address, argument_in(launch, memory, found));
}

// A pointer that is no device's: a GPU would fault on it, and here it may well be one of the host's.
static std::string foreign_pointer(const Launch& launch, Memory& memory) {
  return visit_pointers(launch, [&](const std::string& name, void* pointer) -> std::string {
    Allocation* found = memory.find(pointer);
    if (!pointer || (found && !found->freed)) return "";
    std::string is = found ? place_in(*found, pointer) : "no address of device memory";
    return "kernel " + std::string(launch.kernel->name) + ": " + name + " is " + is;
  });
}

// Which of the buffers that the kernel was given have been written around, where no guard page is.
static std::string overwritten(const Launch& launch, Memory& memory) {
  return visit_pointers(launch, [&](const std::string& name, void* pointer) -> std::string {
    long first = 0;
    Allocation* found = memory.find(pointer);
    size_t count = found ? Memory::touched(*found, &first) : 0;
    if (!count) return "";
    std::string where = place_in(*found, found->data + first, name);
    return "kernel " + std::string(launch.kernel->name) + ": wrote " + std::to_string(count) + " bytes, the first " + where;
  });
}

Outcome run(const Launch& launch, Memory& memory) {
  if (auto found = foreign_pointer(launch, memory); !found.empty()) return {illegal_address, found};
  *launch.table->engine = &engine;
  Block block(launch, memory);
  running = &block;
  Fault fault{};
  guarded([&] { run_blocks(block, launch); }, &fault);
  running = nullptr;
  *launch.table->current = nullptr;
  if (fault.kind != Fault::none) return {fault.kind == Fault::arithmetic ? launch_failure : illegal_address, describe(launch, fault, block, memory)};
  if (block.failure.code) return block.failure;
  auto found = overwritten(launch, memory);
  return {found.empty() ? 0 : illegal_address, found, true};
}

}  // namespace emulator
