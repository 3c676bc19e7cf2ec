#include "host/predict.h"
#include "tests/support.h"

#include <numeric>

using namespace hearth;
using namespace hearth::tests;

TEST_SUITE("host")
{
    TEST_CASE("the sign predictor is its formula for every weight type and instruction set")
    {
        host::Team team(2);
        for (const WeightFormat& format : weight_formats)
            for (const uint32_t cols : {32u, 96u, 224u, 256u}) {
                if (cols % format.block) continue;
                constexpr uint32_t rows = 77;
                const std::string bytes = encode_rows(format.type, random_floats(rows * cols, cols), cols);
                const Matrix w = {format.type, rows, cols, reinterpret_cast<const std::byte*>(bytes.data())};
                std::vector<float> x = random_floats(cols, 2);
                x[3] = -0.0f;    // a sign is a bit, so that every compiler and driver sees the same
                x[4] = -1e-42f;
                std::vector<uint32_t> order(rows);
                std::iota(order.rbegin(), order.rend(), 0);    // backwards
                const host::SignRows signs(team, w, order);
                const uint32_t agreements = cols / 2 + 2;
                std::vector<uint32_t> mask(3, ~0u);
                host::predict_sign(team, signs, x.data(), agreements, mask.data());
                std::vector<float> row(cols);
                for (uint32_t j = 0; j < rows; ++j) {
                    host::kernels().of(format.type).decode(w.row(order[j]), row.data(), cols);
                    uint32_t agree = 0;
                    for (uint32_t i = 0; i < cols; ++i) agree += std::signbit(row[i]) == std::signbit(x[i]);
                    CHECK((mask[j / 32] >> j % 32 & 1) == (agree >= agreements));
                    std::vector<uint64_t> of_x(signs.words());
                    for (const auto& [isa, id, name] : host::isa_names)
                        if (const host::Kernels* k = host::kernels(isa)) {
                            k->pack_signs(x.data(), of_x.data(), cols);
                            CHECK(k->differing_bits(signs.row(j), of_x.data(), signs.words()) == cols - agree);
                        }
                }
                CHECK((mask[2] >> (rows - 64)) == 0);
            }
    }

    TEST_CASE("the low-rank predictor is its formula")
    {
        host::Team team(2);
        constexpr uint32_t dim = 64, hidden = 96, neurons = 130;
        for (const WeightType type : {WeightType::f16, WeightType::q8_0}) {
            const std::string one = encode_rows(type, random_floats(hidden * dim, 1), dim),
                              two = encode_rows(type, random_floats(neurons * hidden, 2), hidden);
            const Matrix fc1 = {type, hidden, dim, reinterpret_cast<const std::byte*>(one.data())},
                         fc2 = {type, neurons, hidden, reinterpret_cast<const std::byte*>(two.data())};
            constexpr uint32_t tokens = 3, words = 5;
            const std::vector<float> r = random_floats(tokens * dim, 3);
            std::vector<uint32_t> order(neurons);
            std::iota(order.rbegin(), order.rend(), 0);
            const float threshold = 1.5f;
            std::vector<uint32_t> mask(tokens * words, ~0u);
            host::LowRankScratch scratch;
            host::predict_lowrank(team, fc1, fc2, order, r.data(), tokens, threshold, mask.data(), scratch);
            uint32_t predicted = 0;
            for (uint32_t t = 0; t < tokens; ++t) {
                std::vector<uint32_t> alone(words);
                host::predict_lowrank(team, fc1, fc2, order, &r[t * dim], 1, threshold, alone.data(), scratch);
                CHECK(std::ranges::equal(alone, std::span(mask).subspan(t * words, words)));
                std::vector<float> row(hidden);
                std::vector<double> h(hidden);
                for (uint32_t k = 0; k < hidden; ++k) {
                    host::kernels().of(type).decode(fc1.row(k), row.data(), dim);
                    for (uint32_t i = 0; i < dim; ++i) h[k] += double(row[i]) * r[t * dim + i];
                    h[k] = std::max(h[k], 0.0);
                }
                for (uint32_t j = 0; j < neurons; ++j) {
                    host::kernels().of(type).decode(fc2.row(order[j]), row.data(), hidden);
                    double score = 0;
                    for (uint32_t k = 0; k < hidden; ++k) score += double(row[k]) * h[k];
                    if (std::abs(score - threshold) < 0.01) continue;    // rounding may decide
                    CHECK((mask[t * words + j / 32] >> j % 32 & 1) == (score >= threshold));
                    predicted += score >= threshold;
                }
                CHECK((mask[t * words + words - 1] >> (neurons - 128)) == 0);
            }
            CHECK(predicted > 10 * tokens);
            CHECK(predicted < (neurons - 10) * tokens);
        }
    }
}
