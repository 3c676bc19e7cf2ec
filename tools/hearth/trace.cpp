// --trace: what host and device did when, in the format of Chrome's trace viewer (chrome://tracing, ui.perfetto.dev).
// Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
#include "tools/hearth/cli.h"

namespace hearth::tools {

namespace {

enum Lane { host_lane = 1, device_lane = 2 };

}    // namespace

TraceFile::TraceFile(const std::filesystem::path& path) : file_(path)
{
    for (const auto& [lane, name] : {std::pair(host_lane, "host"), std::pair(device_lane, "device")})
        events_.push_back(
            {{"name", "thread_name"}, {"ph", "M"}, {"pid", 1}, {"tid", lane}, {"args", {{"name", name}}}});
}

void TraceFile::add(const FeedStats& s)
{
    for (const Stage& stage : s.stages)
        events_.push_back({{"name", stage.name},
                           {"cat", s.work == host::Work::few ? "decode" : "prefill"},
                           {"ph", "X"},
                           {"pid", 1},
                           {"tid", stage.on_device ? device_lane : host_lane},
                           {"ts", stage.start_us},
                           {"dur", stage.us},
                           {"args", {{"layer", stage.layer}, {"bytes", stage.bytes}, {"position", s.position}}}});
}

void TraceFile::finish() { file_.finish(dump({{"traceEvents", events_}, {"displayTimeUnit", "ns"}})); }

}    // namespace hearth::tools
