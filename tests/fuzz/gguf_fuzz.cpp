// A GGUF file from its first byte to a model's answer: keys, tensors, sparse rows, configuration, tokenizer; where the
// model is small also its weights and two tokens on the CPU.
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/model/weights.h"
#include "engine/run/diagnosis.h"
#include "engine/run/scheduler.h"
#include "tests/fuzz/fuzz.h"

namespace hearth::fuzz {

const uint64_t base_memory = 2 << 20;

namespace {

void look_at(const Gguf& file)
{
    // Each key by one of the ways to ask for it, which is another one in another file: most are refused, and refusals
    // take time.
    size_t way = file.file_bytes() / file.alignment();
    for (const auto& entry : file.keys()) {
        const std::string_view key = entry.first;
        try_to([&] {
            switch (way++ % 7) {
            case 0: file.u64(key); break;
            case 1: file.f32(key); break;
            case 2: file.boolean(key, false); break;
            case 3: file.string(key); break;
            case 4: file.strings(key); break;
            case 5: file.floats(key); break;
            case 6: file.integers(key); break;
            }
        });
    }
    uint64_t sum = 0;
    for (const GgufTensor& t : file.tensors()) {
        FUZZ_CHECK(file.find(t.name) == &t);
        if (t.type_name() == "I32" && t.shape.size() == 1)
            for (const int32_t n : file.numbers(t.name)) sum += uint32_t(n);
        for (uint64_t i = 0; i < t.bytes; i += 64) sum += uint64_t(t.data[i]);
        if (t.bytes) sum += uint64_t(t.data[t.bytes - 1]);
    }
    use(sum);
}

void tokenize(const Gguf& file)
{
    const Tokenizer tokenizer(file);
    for (const std::string_view text :
         {"Once upon a time, 12345 d\u00e9j\u00e0 vu's </s>\r\n\t  x", "\xff\xc0 a\u0301\u0323 \U0001f600<|im_end|>"}) {
        const std::vector<Token> ids = tokenizer.encode(text, true);
        for (const Token id : ids) FUZZ_CHECK(id < tokenizer.size());
        tokenizer.decode(ids);
    }
}

void run(const std::shared_ptr<const Gguf>& file, DownLayout layout)
{
    const Weights described = describe_weights(file, layout);
    uint64_t bytes = 0;
    for (const GgufTensor& t : file->tensors()) bytes += t.bytes;
    if (bytes > 256 << 10 || described.config.heads > 256) return;
    const Weights weights = load_weights(file, layout, 1);
    const Config& c = weights.config;
    if (!c.vocab || !c.most_positions()) return;
    static host::Team team(1);
    HostLayers cpu(weights, team,
                   {.first_layer = 0,
                    .batch = 2,
                    .pages = 1,
                    .sparsity = std::vector<LayerSparsity>(
                        c.layers, {.cut = host::makes_zeros(c.activation) ? 0 : host::no_cut})});
    Scheduler scheduler(cpu, nullptr, nullptr, nullptr, team, c);
    const Token tokens[] = {0, c.vocab - 1};
    for (uint32_t position = 0; position < std::min(c.most_positions(), 2u); ++position) {
        try {
            const uint32_t page = 0;
            scheduler.feed({.work = host::Work::few,
                            .rows = {{position, position + 1, &page}},
                            .tokens = {tokens[position]},
                            .wanted = {0},
                            .take = [](uint32_t, std::span<const float>) {}});
        } catch (const NotFiniteNumbers&) {    // as a Session does
            const RowTable rows(weights.config.dim);
            const Diagnosis why = {.weights = weights, .team = team, .batch = 2, .kv = {}, .rows = rows, .device = ""};
            const std::vector<Token> text(tokens, tokens + position + 1);
            throw why.of({&text, 1});
        }
    }
}

}    // namespace

void read(std::string_view bytes)
{
    const auto file = std::make_shared<const Gguf>("model.gguf", bytes);
    look_at(*file);
    try_to([&] { tokenize(*file); });
    try_to([&] { file->check_sparse_rows(); });
    try_to([&] { run(file, DownLayout::by_neurons); });
    run(file, DownLayout::dense);
}

}    // namespace hearth::fuzz
