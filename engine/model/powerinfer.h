// What PowerInfer keeps beside a model: the index of the neurons that it would put on the GPU, and how often each
// neuron fired. Formats: powerinfer-py/powerinfer/export_split.py of https://github.com/SJTU-IPADS/PowerInfer, and the
// zip files of torch.save.
#pragma once

#include "engine/model/weights.h"

namespace hearth {

struct GpuIndex {
    uint64_t vram_capacity = 0;                   // bytes of GPU memory that the split was solved for
    std::vector<std::vector<uint32_t>> layers;    // of every layer the neurons on the GPU, ascending; may be empty
};

/// How often each neuron fired, as counts or shares: (layers)(neurons), finite, 0 or more.
using ActivationStatistics = std::vector<std::vector<double>>;

/// Where PowerInfer looks: MODEL.gguf.generated.gpuidx, and the folder `activation`.
std::filesystem::path gpu_index_of(const std::filesystem::path& model);
std::filesystem::path activation_folder_of(const std::filesystem::path& model);

/// Reads an index file: a GGUF whose tensors are blk.N.gpu_idx (neurons), 1 on the GPU and else 0, and
/// blk.N.gpu_bucket, the ids of the ones. Error where the file is not sound, is of another model (numbers of layers or
/// neurons), or the two tensors of a layer contradict each other.
GpuIndex read_gpu_index(const std::filesystem::path& path, const Config& config);

/// Reads activation_0.pt, activation_1.pt and so on, one for every layer. Error where a file is missing, left over or
/// not as read_torch_vector wants it.
ActivationStatistics read_activation_statistics(const std::filesystem::path& folder, const Config& config);

/// The `n` numbers of a file that torch.save wrote of a plain tensor of one dimension: float64, float32, float16,
/// bfloat16, int64 or int32; `path` is for messages. Nothing that the file says is carried out: its pickle must be,
/// word for word, the one of a plain tensor. Error, with the path, for everything else and for numbers that are
/// negative or not finite.
std::vector<double> read_torch_vector(const std::filesystem::path& path, std::string_view bytes, uint32_t n);

/// PowerInfer's export sorts the files of statistics by name (0, 1, 10, 11, ..., 2, 20, ...) and takes them for layers
/// 0, 1, 2, 3, ... (its issue 247). True where the index agrees better with that order than with the right one: then it
/// serves other layers' neurons, and the split should be made anew from the statistics. Both are of the same model.
/// Agreement is the number of a layer's k neurons that are among the k most frequent.
bool missorted(const GpuIndex& index, const ActivationStatistics& statistics);

}    // namespace hearth
