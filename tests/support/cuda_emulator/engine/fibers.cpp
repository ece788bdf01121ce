#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

namespace emulator {

#if defined(__x86_64__)

// Saves what a function must preserve (System V ABI) on this stack and takes it up from the other. The first switch to a fiber
// "returns" to emulator_start_fiber, with the function in rbx and its argument in rbp.
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, . - emulator_switch
.globl emulator_start_fiber
.hidden emulator_start_fiber
.type emulator_start_fiber, @function
emulator_start_fiber:
  movq %rbp, %rdi
  call *%rbx
  ud2
.size emulator_start_fiber, . - emulator_start_fiber
)");
extern "C" void emulator_switch(void** save, void* load);
extern "C" void emulator_start_fiber();

void Fiber::prepare(char* stack, size_t size, void (*entry)(void*), void* argument) {
  auto top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + size) & ~uintptr_t(15));
  *--top = nullptr;  // so that the call in emulator_start_fiber finds the stack aligned
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(emulator_start_fiber);
  *--top = argument;                        // rbp
  *--top = reinterpret_cast<void*>(entry);  // rbx
  for (int i = 0; i < 4; i++) *--top = nullptr;
  stack_pointer_ = top;
}

void Fiber::switch_to(Fiber& from, Fiber& to) { emulator_switch(&from.stack_pointer_, to.stack_pointer_); }

#else

static void start(unsigned entry_high, unsigned entry_low, unsigned argument_high, unsigned argument_low) {
  auto entry = reinterpret_cast<void (*)(void*)>(uintptr_t(uint64_t(entry_high) << 32 | entry_low));
  entry(reinterpret_cast<void*>(uintptr_t(uint64_t(argument_high) << 32 | argument_low)));
}

void Fiber::prepare(char* stack, size_t size, void (*entry)(void*), void* argument) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = size;
  context_.uc_link = nullptr;
  uint64_t function = reinterpret_cast<uintptr_t>(entry), value = reinterpret_cast<uintptr_t>(argument);
  makecontext(&context_, reinterpret_cast<void (*)()>(start), 4, unsigned(function >> 32), unsigned(function), unsigned(value >> 32),
              unsigned(value));
}

void Fiber::switch_to(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }

#endif

static constexpr size_t stack_guard = 64 << 10;

char* Stacks::at(size_t index) {
  while (stacks_.size() <= index) {
    void* mapped = mmap(nullptr, stack_guard + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(static_cast<char*>(mapped) + stack_guard, size, PROT_READ | PROT_WRITE)) abort();
    stacks_.push_back(static_cast<char*>(mapped) + stack_guard);
  }
  return stacks_[index];
}

long Stacks::find(const void* address) const {
  auto place = static_cast<const char*>(address);
  for (size_t i = 0; i < stacks_.size(); i++)
    if (place >= stacks_[i] - stack_guard && place < stacks_[i] + size) return long(i);
  return -1;
}

}  // namespace emulator
