// A model in parts: the files one after the other, with part_separator between.
#include "engine/file/gguf.h"
#include "engine/model/weights.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/parts.h"

#include <deque>

namespace hearth::fuzz {

const uint64_t base_memory = 1 << 20;

void read(std::string_view bytes)
{
    const std::vector<std::string_view> parts = split_parts(bytes);
    std::deque<TemporaryFile> files;
    for (size_t i = 0; i < parts.size(); ++i)
        files.emplace_back(fmt::format("m-{:05}-of-{:05}.gguf", i + 1, parts.size()), parts[i]);
    const auto file = std::make_shared<const Gguf>(files.back().path());
    uint64_t sum = 0;
    for (const GgufTensor& t : file->tensors()) {
        FUZZ_CHECK(file->find(t.name) == &t);
        for (uint64_t i = 0; i < t.bytes; i += 64) sum += uint64_t(t.data[i]);
    }
    use(sum);
    FUZZ_CHECK(file->file_bytes() == bytes.size() - (parts.size() - 1) * part_separator.size() || parts.size() == 1 ||
               file->files().size() == 1);
    file->check_sparse_rows();
    describe_weights(file);
}

}    // namespace hearth::fuzz
