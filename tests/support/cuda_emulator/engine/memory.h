// Memory between guard pages: the emulated device's, pinned host memory, and the shared arrays of a block.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace emulator {

enum class Space { device, pinned, shared };
enum class Side { end, start };  // which end of the memory lies against a guard page, to the byte

struct Allocation {
  char* data;
  size_t size;
  Space space;
  Side side;
  int device;
  int poison;
  std::string label;
  char* pages;  // the accessible pages, with guards before and after
  size_t pages_size;
  bool freed = false;
  bool writable = true;
};

// All allocations, by the address of their first guard page. Freed buffers stay in the table, inaccessible, for a while, so that
// what uses them is told so.
class Memory {
 public:
  // Filled with the byte `poison`. With Side::end, `size` is rounded up to a multiple of `alignment`, and ends at a guard page;
  // with Side::start it begins after one. nullptr: the system has none.
  Allocation* allocate(size_t size, size_t alignment, Space space, Side side, int poison, int device, std::string label);
  bool free(void* data);
  // The allocation whose memory or guards the address lies in.
  Allocation* find(const void* address);
  // The one that begins at `data`; nullptr if it was freed.
  Allocation* at(void* data);
  // Whether [data, data + size) lies in accessible memory of that kind.
  bool contains(const void* data, Space space);
  static void protect(Allocation& allocation, bool writable);
  // How many of the bytes around the memory, in its pages, no longer hold the poison, and where the first is relative to data.
  static size_t touched(const Allocation& allocation, long* first);
  size_t used(int device) const;

 private:
  void release_old();

  std::map<uintptr_t, Allocation> table_;
  std::map<int, size_t> used_;
  std::map<uint64_t, uintptr_t> freed_;  // in the order in which they were freed
  uint64_t frees_ = 0;
};

// "12 bytes beyond the end of device buffer 3 (256 bytes)". `label` goes before the allocation's own.
std::string place_in(const Allocation& allocation, const void* address, const std::string& label = "");

}  // namespace emulator
