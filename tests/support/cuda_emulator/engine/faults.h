// Catches the signals that kernels cause, and gets out of a kernel from any depth.
#pragma once
#include <functional>

namespace emulator {

struct Fault {
  enum Kind { none, read, write, arithmetic, trap } kind;
  void* address;
  void* instruction;  // nullptr: not known
};

// Calls `body`, which a fault, which is then described, or leave_launch ends early; what was on its stacks is not destroyed. The
// handlers that there were before are there again afterwards.
void guarded(const std::function<void()>& body, Fault* fault);

// Ends the `body` of the thread's guarded.
[[noreturn]] void leave_launch();

}  // namespace emulator
