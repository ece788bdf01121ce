#include "streams.h"

#include <algorithm>

#include "settings.h"

namespace emulator {

std::shared_ptr<Stream> Streams::create(bool blocking) {
  streams_.push_back(std::make_shared<Stream>(Stream{blocking, {}, 0, 0, false}));
  return streams_.back();
}

std::shared_ptr<Stream> Streams::find(void* handle) {
  constexpr uintptr_t legacy = 1, per_thread = 2;  // cudaStreamLegacy, cudaStreamPerThread
  auto number = reinterpret_cast<uintptr_t>(handle);
  if (number == 0 || number == legacy || number == per_thread) return legacy_;
  for (auto& stream : streams_)
    if (stream.get() == handle) return stream;
  return nullptr;
}

void Streams::destroy(void* handle) {
  // As CUDA does, it returns at once; what is in the stream is done before it goes.
  auto stream = find(handle);
  reach(now(stream));
  streams_.erase(std::remove(streams_.begin(), streams_.end(), stream), streams_.end());
}

void Streams::push(const std::shared_ptr<Stream>& stream, std::function<void()> work) {
  stream->work.push_back(std::move(work));
  stream->given++;
}

void Streams::give(const std::shared_ptr<Stream>& stream, std::function<void()> work) {
  if (stream == legacy_) {
    for (auto& other : streams_)
      if (other->blocking && other->done < other->given) push(stream, [this, point = now(other)] { reach(point); });
  } else if (stream->blocking && legacy_->done < legacy_->given) {
    push(stream, [this, point = now(legacy_)] { reach(point); });
  }
  push(stream, std::move(work));
  if (settings().schedule == Schedule::eager) finish(stream);
}

void Streams::record(Event& event, const std::shared_ptr<Stream>& stream) {
  auto time = std::make_shared<std::chrono::steady_clock::time_point>();
  give(stream, [time] { *time = std::chrono::steady_clock::now(); });
  event = {now(stream), true, time};
}

void Streams::wait(const std::shared_ptr<Stream>& stream, const Event& event) {
  if (event.recorded) give(stream, [this, point = event.point] { reach(point); });
}

void Streams::reach(const Point& point) {
  Stream* stream = point.stream.get();
  // Work can only wait for what was given before it, so a stream that runs has come to that already.
  if (!stream || stream->running) return;
  stream->running = true;
  while (stream->done < point.number && !stream->work.empty()) {
    auto work = std::move(stream->work.front());
    stream->work.pop_front();
    work();
    stream->done++;
  }
  stream->running = false;
}

void Streams::others_first(const Stream* stream) {
  if (settings().schedule != Schedule::ahead) return;
  if (legacy_.get() != stream) reach(now(legacy_));
  for (auto& other : streams_)
    if (other.get() != stream) reach(now(other));
}

void Streams::finish(const std::shared_ptr<Stream>& stream) {
  others_first(stream.get());
  reach(now(stream));
}

void Streams::finish(const Event& event) {
  others_first(event.point.stream.get());
  reach(event.point);
}

void Streams::finish_all() {
  reach(now(legacy_));
  for (auto& stream : streams_) reach(now(stream));
}

}  // namespace emulator
