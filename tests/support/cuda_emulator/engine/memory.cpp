#include "memory.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

namespace emulator {

static constexpr size_t page = 4096;
static constexpr size_t guard = 1 << 20;  // wide, since an index that is wrong is often wrong by a row
static constexpr size_t kept_freed = 256;

Allocation* Memory::allocate(size_t size, size_t alignment, Space space, Side side, int poison, int device, std::string label) {
  size_t rounded = (size + alignment - 1) / alignment * alignment;
  size_t pages = (rounded + page - 1) / page * page;
  if (pages == 0) pages = page;
  size_t total = pages + 2 * guard;
  if (rounded < size || total < pages) return nullptr;
  void* mapped = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* first = static_cast<char*>(mapped) + guard;
  if (mprotect(first, pages, PROT_READ | PROT_WRITE)) {
    munmap(mapped, total);
    return nullptr;
  }
  memset(first, poison, pages);
  char* data = side == Side::start ? first : first + pages - rounded;
  if (space == Space::device) used_[device] += size;
  auto key = reinterpret_cast<uintptr_t>(mapped);
  return &(table_[key] = Allocation{data, size, space, side, device, poison, std::move(label), first, pages});
}

bool Memory::free(void* data) {
  Allocation* found = at(data);
  if (!found) return false;
  if (found->space == Space::shared) {  // a launch's own, which nothing can use after it
    auto key = reinterpret_cast<uintptr_t>(found->pages) - guard;
    munmap(reinterpret_cast<void*>(key), found->pages_size + 2 * guard);
    table_.erase(key);
    return true;
  }
  // Other pages in its place: inaccessible, and no longer taking memory.
  mmap(found->pages, found->pages_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  found->freed = true;
  if (found->space == Space::device) used_[found->device] -= found->size;
  freed_[frees_++] = reinterpret_cast<uintptr_t>(found->pages) - guard;
  release_old();
  return true;
}

void Memory::release_old() {
  while (freed_.size() > kept_freed) {
    auto oldest = freed_.begin();
    auto found = table_.find(oldest->second);
    munmap(reinterpret_cast<void*>(oldest->second), found->second.pages_size + 2 * guard);
    table_.erase(found);
    freed_.erase(oldest);
  }
}

Allocation* Memory::find(const void* address) {
  auto place = reinterpret_cast<uintptr_t>(address);
  auto after = table_.upper_bound(place);
  if (after == table_.begin()) return nullptr;
  Allocation& found = std::prev(after)->second;
  return place < reinterpret_cast<uintptr_t>(found.pages) + found.pages_size + guard ? &found : nullptr;
}

Allocation* Memory::at(void* data) {
  Allocation* found = find(data);
  return found && found->data == data && !found->freed ? found : nullptr;
}

bool Memory::contains(const void* data, Space space) {
  Allocation* found = find(data);
  auto place = static_cast<const char*>(data);
  return found && !found->freed && found->space == space && place >= found->pages && place < found->pages + found->pages_size;
}

void Memory::protect(Allocation& allocation, bool writable) {
  allocation.writable = writable;
  mprotect(allocation.pages, allocation.pages_size, writable ? PROT_READ | PROT_WRITE : PROT_READ);
}

size_t Memory::touched(const Allocation& allocation, long* first) {
  auto poison = static_cast<char>(allocation.poison);
  const char *begin = allocation.data, *end = begin + allocation.size;
  size_t before = size_t(begin - allocation.pages), after = allocation.pages_size - before - allocation.size, count = 0;
  for (auto [at, size] : {std::pair{allocation.pages, before}, std::pair{const_cast<char*>(end), after}}) {
    if (size == 0 || (*at == poison && !memcmp(at, at + 1, size - 1))) continue;
    for (size_t i = 0; i < size; i++)
      if (at[i] != poison && count++ == 0) *first = at + i - begin;
  }
  return count;
}

size_t Memory::used(int device) const {
  auto found = used_.find(device);
  return found == used_.end() ? 0 : found->second;
}

std::string place_in(const Allocation& allocation, const void* address, const std::string& label) {
  auto place = static_cast<const char*>(address);
  long before = allocation.data - place, after = place - (allocation.data + allocation.size);
  std::string what = label + (label.empty() || allocation.label.empty() ? "" : ", ") + allocation.label + " (" +
                     std::to_string(allocation.size) + " bytes" + (allocation.freed ? ", freed)" : ")");
  if (before > 0) return std::to_string(before) + " bytes before the start of " + what;
  if (after >= 0) return std::to_string(after) + " bytes beyond the end of " + what;
  return "at byte " + std::to_string(-before) + " of " + what + (allocation.writable ? "" : ", which is only to be read");
}

}  // namespace emulator
