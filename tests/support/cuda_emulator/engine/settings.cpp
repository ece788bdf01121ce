#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulator {

static const char* text(const char* name, const char* otherwise) {
  const char* found = getenv(name);
  return found && *found ? found : otherwise;
}

static void refuse(const char* name) {
  fprintf(stderr, "CUDA emulator: the environment variable %s has a value that is not understood: %s\n", name, getenv(name));
  exit(2);
}

static size_t number(const char* name, const char* otherwise) {
  char* end;
  size_t value = strtoull(text(name, otherwise), &end, 10);
  if (*end) refuse(name);
  return value;
}

static Settings read() {
  Settings found{};
  found.memory = number("APRGRAPH_EMULATED_MEMORY", "2147483648");
  int parsed = 0;
  const char* capability = text("APRGRAPH_EMULATED_ARCH", "8.0");
  if (sscanf(capability, "%d.%d%n", &found.major, &found.minor, &parsed) != 2 || capability[parsed]) refuse("APRGRAPH_EMULATED_ARCH");
  found.devices = int(number("APRGRAPH_EMULATED_DEVICES", "1"));
  const char* schedule = text("APRGRAPH_EMULATED_STREAMS", number("APRGRAPH_EMULATED_EAGER", "0") ? "eager" : "lazy");
  if (!strcmp(schedule, "lazy")) found.schedule = Schedule::lazy;
  else if (!strcmp(schedule, "ahead")) found.schedule = Schedule::ahead;
  else if (!strcmp(schedule, "eager")) found.schedule = Schedule::eager;
  else refuse("APRGRAPH_EMULATED_STREAMS");
  if (!Order::parse(text("APRGRAPH_EMULATED_ORDER", "ascending"), &found.order)) refuse("APRGRAPH_EMULATED_ORDER");
  const char* side = text("APRGRAPH_EMULATED_GUARD", "end");
  if (strcmp(side, "end") && strcmp(side, "start")) refuse("APRGRAPH_EMULATED_GUARD");
  found.side = strcmp(side, "end") ? Side::start : Side::end;
  found.alignment = number("APRGRAPH_EMULATED_ALIGNMENT", "16");
  return found;
}

const Settings& settings() {
  static const Settings found = read();
  return found;
}

}  // namespace emulator
