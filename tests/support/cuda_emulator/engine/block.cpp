#include "block.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "faults.h"

namespace emulator {

static Stacks& stacks() {
  static Stacks stacks;
  return stacks;
}

bool Block::on_stack(const void* address) { return stacks().find(address) >= 0; }

static std::string triple(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

static std::string thread_name(const cuda_emulator_thread& seen) {
  return "thread " + triple(seen.thread_index.x, seen.thread_index.y, seen.thread_index.z);
}

Block::Block(const Launch& launch, Memory& memory)
    : launch_(launch),
      memory_(memory),
      count_(launch.block.x * launch.block.y * launch.block.z),
      threads_(count_),
      warps_((count_ + 31) / 32),
      lanes_(32) {
  std::iota(warps_.begin(), warps_.end(), 0);
  std::iota(lanes_.begin(), lanes_.end(), 0);
  if (launch.order.kind == Order::descending) {
    std::reverse(warps_.begin(), warps_.end());
    std::reverse(lanes_.begin(), lanes_.end());
  }
  random_.seed(launch.order.seed);
}

Block::~Block() {
  for (auto& [site, shared] : shared_) memory_.free(shared.allocation->data);
}

bool Block::run(uint3 index) {
  for (auto& [site, shared] : shared_) shared.declared = false;
  for (unsigned i = 0; i < count_; i++) {
    Thread& thread = threads_[i];
    const dim3& size = launch_.block;
    thread.seen = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, index, size, launch_.grid, i % 32, launch_.poison};
    enter(i);
  }
  for (;;) {
    run_warps();
    bool all_left = std::all_of(threads_.begin(), threads_.end(), [](const Thread& thread) { return thread.state == Thread::left; });
    if (all_left) return !wrote_around_shared();
    if (!release_barrier()) return false;
  }
}

// Until no thread can run. One warp after another goes as far as it can: threads that nothing makes wait for each other are then as
// far apart as they can be. With a shuffled order, warps take turns at other times.
void Block::run_warps() {
  bool shuffled = launch_.order.kind == Order::shuffled, progress = true;
  if (shuffled) std::shuffle(warps_.begin(), warps_.end(), random_);
  while (progress) {
    bool turns = shuffled && random_() & 1;
    progress = false;
    for (unsigned warp : warps_)
      while (run_lanes(warp)) {
        progress = true;
        if (turns) break;
      }
  }
}

// One turn of each lane of the warp that can run; false: none can.
bool Block::run_lanes(unsigned warp) {
  if (launch_.order.kind == Order::shuffled) std::shuffle(lanes_.begin(), lanes_.end(), random_);
  bool progress = false;
  for (unsigned lane : lanes_) {
    unsigned index = warp * 32 + lane;
    if (index >= count_ || threads_[index].state != Thread::ready) continue;
    progress = true;
    current = &threads_[index];
    *launch_.table->current = &current->seen;
    Fiber::switch_to(scheduler_, current->fiber);
    current = nullptr;
  }
  return progress;
}

void Block::enter(unsigned index) {
  Thread& thread = threads_[index];
  thread.state = Thread::ready;
  auto main = [](void* self) {
    auto block = static_cast<Block*>(self);
    block->launch_.kernel->run(block->launch_.arguments);
    block->wait(Thread::left);
  };
  thread.fiber.prepare(stacks().at(index), Stacks::size, main, this);
}

void Block::wait(Thread::State state) {
  Thread& self = *current;
  self.state = state;
  Fiber::switch_to(self.fiber, scheduler_);
}

// --- the block's barrier

void Block::sync_threads(int line) {
  current->line = line;
  current->function = "__syncthreads";
  wait(Thread::at_barrier);
}

bool Block::release_barrier() {
  const Thread& first = threads_[0];
  for (const Thread& thread : threads_) {
    if (thread.state == Thread::at_barrier && first.state == Thread::at_barrier && thread.line == first.line) continue;
    fail_waiting();
    return false;
  }
  for (Thread& thread : threads_) thread.state = Thread::ready;
  return true;
}

// --- what a warp exchanges

uint64_t Block::meet_warp(int line, const char* function, unsigned mask, uint64_t value, unsigned source, uint64_t* values) {
  Thread& self = *current;
  self.line = line;
  self.function = function;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.values = values;
  self.state = Thread::in_warp;
  if (!(mask >> self.seen.lane & 1)) {
    fail(std::string(function) + " (line " + std::to_string(line) + ") with a mask that lacks the thread's own lane " +
         std::to_string(self.seen.lane));
    leave_launch();
  }
  unsigned first = unsigned(&self - threads_.data()) / 32 * 32;
  if (!finish_exchange(first, mask)) leave_launch();
  Fiber::switch_to(self.fiber, scheduler_);
  return self.result;
}

// Lets the lanes of the mask go on if all of them have come. Lanes that the block has no threads for need not come. False: an error.
bool Block::finish_exchange(unsigned first, unsigned mask) {
  const Thread& self = *current;
  unsigned lanes = std::min(32u, count_ - first);
  Thread* warp = &threads_[first];
  for (unsigned lane = 0; lane < lanes; lane++) {
    if (!(mask >> lane & 1)) continue;
    const Thread& other = warp[lane];
    bool here = other.state == Thread::in_warp && other.line == self.line && other.mask == mask && !strcmp(other.function, self.function);
    if (!here) return true;
  }
  for (unsigned lane = 0; lane < lanes; lane++) {
    if (!(mask >> lane & 1)) continue;
    Thread& taker = warp[lane];
    if (taker.source != no_source) {
      if (taker.source >= lanes || !(mask >> taker.source & 1)) {
        current = &taker;
        fail(std::string(taker.function) + " (line " + std::to_string(taker.line) + ") reads lane " + std::to_string(taker.source) +
             (taker.source >= lanes ? ", which the block has no thread for" : ", which is not in its mask"));
        return false;
      }
      taker.result = warp[taker.source].value;
    }
    if (taker.values)
      for (unsigned i = 0; i < 32; i++) taker.values[i] = i < lanes && (mask >> i & 1) ? warp[i].value : 0;
  }
  for (unsigned lane = 0; lane < lanes; lane++)
    if (mask >> lane & 1) warp[lane].state = Thread::ready;
  return true;
}

unsigned Block::live_lanes() const {
  unsigned first = unsigned(current - threads_.data()) / 32 * 32, result = 0;
  for (unsigned i = first; i < std::min(count_, first + 32); i++) result |= unsigned(threads_[i].state != Thread::left) << (i - first);
  return result;
}

// --- threads that do not meet

// Nothing can run any more. Takes a thread that waits, and one that it waits for.
void Block::fail_waiting() {
  auto waiting = [](const Thread& thread) { return thread.state == Thread::at_barrier || thread.state == Thread::in_warp; };
  // A warp's exchange first: where one is stuck, a barrier of the block that lacks those threads is what follows from it.
  const Thread* one = nullptr;
  for (const Thread& thread : threads_)
    if (thread.state == Thread::in_warp && !one) one = &thread;
  for (const Thread& thread : threads_)
    if (waiting(thread) && !one) one = &thread;
  unsigned first = unsigned(one - threads_.data()) / 32 * 32;
  const Thread* other = nullptr;
  for (const Thread& thread : threads_) {
    unsigned index = unsigned(&thread - threads_.data());
    bool expected = one->state == Thread::at_barrier || (index / 32 * 32 == first && (one->mask >> index % 32 & 1));
    bool met = thread.state == one->state && thread.line == one->line && !strcmp(thread.function, one->function) &&
               (one->state == Thread::at_barrier || thread.mask == one->mask);
    if (expected && !met && !other) other = &thread;
  }
  current = nullptr;
  const uint3& block = one->seen.block_index;
  failure = {launch_failure, where() + ", block " + triple(block.x, block.y, block.z) + ": divergent barrier: " + describe(*one) +
                                 (other ? ", but " + describe(*other) : "")};
}

std::string Block::describe(const Thread& thread) const {
  std::string name = thread_name(thread.seen);
  if (thread.state == Thread::left) return name + " has left the kernel";
  char mask[32] = "";
  if (thread.state == Thread::in_warp) snprintf(mask, sizeof mask, " of lanes 0x%08x", thread.mask);
  return name + " waits at " + thread.function + mask + " (line " + std::to_string(thread.line) + ")";
}

void Block::fail(const std::string& what, int code) { failure = {code, where() + ": " + what}; }

std::string Block::where() const {
  std::string kernel = "kernel " + std::string(launch_.kernel->name);
  if (!current) return kernel;
  const uint3& block = current->seen.block_index;
  return kernel + ", block " + triple(block.x, block.y, block.z) + ", " + thread_name(current->seen);
}

// --- shared memory

// The first thread that comes to a declaration fills the array with the poison: no thread of the block can have used it before.
void* Block::shared(int site, const char* name, size_t size, size_t alignment) {
  auto found = shared_.find(site);
  if (found == shared_.end()) {
    shared_size_ += size;
    if (shared_size_ > most_shared) {
      fail(std::to_string(shared_size_) + " bytes of static shared memory; at most " + std::to_string(most_shared));
      leave_launch();
    }
    Allocation* allocation = memory_.allocate(size, alignment > 16 ? 16 : alignment, Space::shared, Side::end, launch_.poison, 0,
                                              "shared array '" + std::string(name) + "'");
    if (!allocation) {
      fail("no memory for shared arrays");
      leave_launch();
    }
    found = shared_.emplace(site, Shared{allocation, true}).first;
  }
  Shared& shared = found->second;
  if (!shared.declared) memset(shared.allocation->pages, launch_.poison, shared.allocation->pages_size);
  shared.declared = true;
  return shared.allocation->data;
}

// Where an array's size is no multiple of its alignment, or before its start: there is no guard page.
bool Block::wrote_around_shared() {
  for (auto& [site, shared] : shared_) {
    long first = 0;
    size_t count = shared.declared ? Memory::touched(*shared.allocation, &first) : 0;
    if (!count) continue;
    const uint3& block = threads_[0].seen.block_index;
    failure = {illegal_address, where() + ", block " + triple(block.x, block.y, block.z) + ": wrote " + std::to_string(count) +
                                    " bytes, the first " + place_in(*shared.allocation, shared.allocation->data + first)};
    return true;
  }
  return false;
}

void* Block::dynamic_shared() {
  shared_size_ -= shared_.count(-1) ? 0 : launch_.dynamic_shared;  // it has a limit of its own, checked at the launch
  return shared(-1, "(dynamic)", launch_.dynamic_shared, 16);
}

}  // namespace emulator
