#include "faults.h"

#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <memory>

#if defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

static constexpr int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
static constexpr size_t stack_size = 64 << 10;

static struct sigaction before[std::size(caught)];

struct Guard {
  sigjmp_buf jump;
  Fault fault;
};
// initial-exec: a signal handler must not be what first allocates it.
static thread_local Guard* active __attribute__((tls_model("initial-exec")));

static void on_signal(int number, siginfo_t* info, void* context) {
  if (!active) {
    // Another thread's: whoever handled it before gets it when the instruction is run again.
    for (size_t i = 0; i < std::size(caught); i++)
      if (caught[i] == number) sigaction(number, &before[i], nullptr);
    return;
  }
  Fault& fault = active->fault;
  fault.address = info->si_addr;
  fault.kind = number == SIGFPE ? Fault::arithmetic : number == SIGILL || number == SIGTRAP ? Fault::trap : Fault::read;
#if defined(__x86_64__)
  constexpr unsigned write_access = 2;  // of the page fault's error code
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  fault.instruction = reinterpret_cast<void*>(registers[REG_RIP]);
  if (fault.kind == Fault::read && registers[REG_ERR] & write_access) fault.kind = Fault::write;
#else
  (void)context;
#endif
  siglongjmp(active->jump, 1);
}

void guarded(const std::function<void()>& body, Fault* fault) {
  static thread_local std::unique_ptr<char[]> stack(new char[stack_size]);
  Guard guard{};
  stack_t ours{}, theirs{};
  ours.ss_sp = stack.get();
  ours.ss_size = stack_size;
  sigaltstack(&ours, &theirs);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (size_t i = 0; i < std::size(caught); i++) sigaction(caught[i], &action, &before[i]);

  active = &guard;
  if (sigsetjmp(guard.jump, 1) == 0) body();
  active = nullptr;

  for (size_t i = 0; i < std::size(caught); i++) sigaction(caught[i], &before[i], nullptr);
  sigaltstack(&theirs, nullptr);
  *fault = guard.fault;
}

void leave_launch() {
  if (!active) abort();
  siglongjmp(active->jump, 1);
}

}  // namespace emulator
