// Command buffers recorded once and submitted again, and the queue they go to.
#pragma once

#include "engine/vulkan/kernel.h"

#include <optional>
#include <span>
#include <vector>

namespace hearth::vulkan {

struct Groups {
    uint32_t x = 1, y = 1, z = 1;
};

/// A step of a command buffer as it ran. Times are of the device's clock, 0 where timing is off.
struct StageTime {
    std::string_view name;
    uint32_t index;    // tells steps of one name apart; as recorded
    uint64_t bytes;    // read and written; as recorded
    double start_us, us;
};

/// Drivers reset a GPU that one submit keeps busy for too long, on Windows for two seconds. So commands that take long
/// are submitted in pieces.
struct PieceLimit {
    double us = 0;         // that a piece is expected to take at the most; 0: all commands are one piece
    bool timed = false;    // each piece gets timestamps
};

/// A piece of a command buffer as it ran.
struct PieceTime {
    double expected_us, us;
};

class Commands {
  public:
    /// `timing`: every stage gets a timestamp. Those for Lane::copies have copies alone, without stages: what they wait
    /// for is said when they are submitted.
    Commands(std::shared_ptr<Device> device, bool timing, Lane lane = Lane::kernels, PieceLimit limit = {});
    ~Commands();
    Commands(Commands&& other) noexcept { *this = std::move(other); }
    Commands& operator=(Commands&& other) noexcept;

    /// A step that must see the writes of all before it: barrier, label, timestamp and byte count in one call.
    /// `expected_us`: that each of its dispatches and copies will take.
    void stage(const char* name, uint32_t index, uint64_t bytes, double expected_us = 0);

    /// One that would take longer than a piece may is divided by the y of its workgroups.
    template <class Args>
    void dispatch(const Kernel<Args>& kernel, Groups groups, const Args& args)
    {
        dispatch_raw(kernel.pipeline(), groups, &args, sizeof(Args));
        ++dispatches_;
    }
    void copy(const Slice& from, const Slice& to, uint64_t bytes);

    /// Ends the recording; what it wrote will be visible to the host once the submit is done.
    void end();

    /// What is submitted, one after the other.
    std::span<const VkCommandBuffer> pieces() const { return pieces_; }
    uint32_t dispatches() const { return dispatches_; }

    /// Stages of the last submit, which must be done.
    std::vector<StageTime> times() const;
    /// Pieces of the last submit, which must be done; none where they are not timed, or did not all run.
    std::vector<PieceTime> piece_times() const;

  private:
    explicit Commands(std::shared_ptr<Device> device)
        : device_(std::move(device)) {}    // whole, if empty: its destructor runs if the rest throws
    void dispatch_raw(const Pipeline& pipeline, Groups groups, const void* args, uint32_t bytes);
    void begin_piece();
    void end_piece();
    void expect(double us);
    void timestamp();
    void timestamp(VkQueryPool pool, uint32_t query);
    struct Stage {
        const char* name;
        uint32_t index;
        uint64_t bytes;
    };

    std::shared_ptr<Device> device_;
    Lane lane_ = Lane::kernels;
    PieceLimit limit_;
    std::vector<VkCommandBuffer> pieces_;    // the last is recorded now
    std::vector<double> expected_us_;        // of each
    VkQueryPool queries_ = VK_NULL_HANDLE, piece_queries_ = VK_NULL_HANDLE;
    std::vector<Stage> stages_;
    double each_us_ = 0;    // expected of this stage's dispatches and copies
    uint32_t dispatches_ = 0;
};

/// One of the device's queues with two timelines: one numbers work in the order of submission, the other holds
/// submitted work back until the host lets it go.
class Queue {
  public:
    explicit Queue(std::shared_ptr<Device> device, Lane lane = Lane::kernels);
    ~Queue();

    struct Work {
        const Commands* commands;
        uint64_t held_for = 0;    // does not start before the host has released this number; 0: at once
        const Queue* after = nullptr;
        uint64_t after_number = 0;    // nor before that work of `after` is done, and sees what it wrote
    };

    /// Submits all of `work`, in order: one vkQueueSubmit2, and one more for each further piece of commands. Returns
    /// the number of the last; the others are numbered just before it.
    uint64_t submit(std::span<const Work> work);
    /// Calls of vkQueueSubmit2 so far.
    uint64_t calls() const { return calls_; }

    /// Lets work go that is held for `number` or less. Numbers grow; what the host wrote before is visible to that
    /// work.
    void release(uint64_t number);
    /// Lets all submitted work go, number by number: validation layers (1.3.239) lose count when the host leaves some
    /// out.
    void release_all()
    {
        while (released_ < last_held_) release(released_ + 1);
    }
    uint64_t released() const { return released_; }

    /// The number of the last work that is done, all before it being done too.
    uint64_t done() const;

    /// Polls until work `number` is done; 0 is done. Throws Error if the device is lost.
    void wait(uint64_t number) const;

  private:
    std::shared_ptr<Device> device_;
    Lane lane_;
    VkSemaphore timeline_ = VK_NULL_HANDLE, held_ = VK_NULL_HANDLE;
    uint64_t submitted_ = 0, released_ = 0, last_held_ = 0, calls_ = 0;
};

/// Copies host data into Use::device memory through two staging buffers in turn: one is filled while the other is
/// copied.
class Uploader {
  public:
    explicit Uploader(const std::shared_ptr<Device>& device);

    /// `fill(p, first, count)` writes `count` units, from unit `first` on, to p; `unit` bytes each, `units` in all. The
    /// last copies may be under way when this returns: what is submitted from now on sees them.
    template <class Fill>
    void upload(const Slice& to, uint64_t units, uint64_t unit, Fill&& fill)
    {
        HEARTH_CHECK(units * unit <= to.bytes && unit <= staging_bytes);
        const uint64_t at_once = staging_bytes / unit;
        for (uint64_t first = 0; first < units; first += at_once) {
            const uint64_t count = std::min(at_once, units - first);
            Half& half = halves_[next_half_];
            next_half_ = 1 - next_half_;
            queue_.wait(half.work);
            fill(static_cast<std::byte*>(half.staging.mapped), first, count);
            send(half, to, first * unit, count * unit);
        }
    }

    static constexpr uint64_t staging_bytes = 16 << 20;

  private:
    struct Half {
        Slice staging;
        std::optional<Commands> commands;
        uint64_t work = 0;
    };
    void send(Half& half, const Slice& to, uint64_t offset, uint64_t bytes);

    std::shared_ptr<Device> device_;
    Pool pool_;
    Half halves_[2];
    size_t next_half_ = 0;
    Queue queue_;    // last, so that it goes first: it waits for what is under way in all of the above
};

}    // namespace hearth::vulkan
