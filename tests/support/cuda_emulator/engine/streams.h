// Streams and events. Work given to a stream is done as late as CUDA allows, so that who does not wait for it sees that.
//
// Each stream is a queue. Something in it is done when somebody waits: for the stream, for an event recorded in it, for another
// stream that waits for such an event, for the device. The order between the legacy default stream and the streams that are made
// to block with it (CUDA Runtime API, "Stream synchronization behavior") is kept by the same kind of waiting.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace emulator {

struct Stream;

// A place in a stream: reached when all that was given to the stream before it is done.
struct Point {
  std::shared_ptr<Stream> stream;  // none: reached
  uint64_t number = 0;
};

struct Stream {
  bool blocking;  // with the legacy default stream
  std::deque<std::function<void()>> work;
  uint64_t given = 0, done = 0;
  bool running = false;
};

struct Event {
  Point point;
  bool recorded = false;
  std::shared_ptr<std::chrono::steady_clock::time_point> time;
};

class Streams {
 public:
  std::shared_ptr<Stream> create(bool blocking);
  // nullptr is the legacy default stream. nullptr: there is no such stream.
  std::shared_ptr<Stream> find(void* handle);
  void destroy(void* handle);
  // Adds work to the stream; does it at once if streams are eager.
  void give(const std::shared_ptr<Stream>& stream, std::function<void()> work);
  void record(Event& event, const std::shared_ptr<Stream>& stream);
  void wait(const std::shared_ptr<Stream>& stream, const Event& event);

  // What functions that wait do: bring the stream, or the event's, to that point, and others where the schedule says so.
  void finish(const std::shared_ptr<Stream>& stream);
  void finish(const Event& event);
  void finish_all();

 private:
  void reach(const Point& point);
  void others_first(const Stream* stream);
  Point now(const std::shared_ptr<Stream>& stream) const { return {stream, stream->given}; }
  void push(const std::shared_ptr<Stream>& stream, std::function<void()> work);

  std::shared_ptr<Stream> legacy_ = std::make_shared<Stream>(Stream{true, {}, 0, 0, false});
  std::vector<std::shared_ptr<Stream>> streams_;
};

}  // namespace emulator
