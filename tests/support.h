// What several tests need: where the data lies, temporary folders, errors of whole arrays.
#pragma once

#include "engine/engine.h"
#include "tests/random_model.h"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <string>

namespace hearth::tests {

extern std::string device_name;
extern bool validation, thorough;
extern std::string case_folder;

/// tests/data: beside the sources, or where HEARTH_TEST_DATA says, for a test program carried to another machine.
inline std::filesystem::path data(const std::string& name)
{
    const char* folder = std::getenv("HEARTH_TEST_DATA");
    return (folder ? std::filesystem::path(folder) : std::filesystem::path(HEARTH_SOURCE) / "tests" / "data") / name;
}

inline std::filesystem::path shipped_model() { return data("fairytale-7m.gguf"); }

/// On the host alone.
inline EngineOptions on_cpu(const std::filesystem::path& model, unsigned threads = 0)
{
    EngineOptions options = {.model = model};
    options.device = "cpu";
    options.threads = threads;
    return options;
}

inline nlohmann::json expected(const std::string& name)
{
    std::ifstream file(data("expected/" + name));
    REQUIRE(file);
    return nlohmann::json::parse(file);
}

inline std::string read_file(const std::filesystem::path& path)
{
    std::ifstream file(path, std::ios::binary);
    REQUIRE(file);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// Dense ones and sparse ones.
inline std::vector<WeightFormat> all_formats()
{
    std::vector<WeightFormat> all(std::begin(weight_formats), std::end(weight_formats));
    all.insert(all.end(), std::begin(sparse_formats), std::end(sparse_formats));
    return all;
}

/// Where a block has its fp16 numbers, the scale of all its weights first.
inline std::vector<size_t> fp16_numbers(WeightType type)
{
    if (type == WeightType::f16) return {0};
    return with_block(type, []<class B>() {
        std::vector<size_t> at;
        if constexpr (requires(B b) { b.d; }) at.push_back(offsetof(B, d));
        if constexpr (requires(B b) { b.m; }) at.push_back(offsetof(B, m));
        if constexpr (requires(B b) { b.dmin; }) at.push_back(offsetof(B, dmin));
        return at;
    });
}

/// A folder of its own, gone at the end.
class TemporaryFolder {
  public:
    TemporaryFolder()
    {
        std::random_device random;
        const std::string name = fmt::format("hearth-test-{:08x}{:08x}", random(), random());
        path_ = std::filesystem::temp_directory_path() / name;
        REQUIRE(std::filesystem::create_directory(path_));
    }
    ~TemporaryFolder()
    {
        std::error_code ec;
        std::filesystem::remove_all(path_, ec);
    }
    std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

/// The largest difference, relative to the largest magnitude of `want`.
template <class A, class B>
double worst_error(const A& got, const B& want)
{
    REQUIRE(std::size(got) == std::size(want));
    double worst = 0, largest = 0;
    for (size_t i = 0; i < std::size(got); ++i) {
        const double difference = std::abs(double(got[i]) - double(want[i]));
        worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
        largest = std::max(largest, std::abs(double(want[i])));
    }
    return largest > 0 ? worst / largest : worst;
}

/// A neuron's strength by its products with gate and up: the formula that all paths are held to.
inline double glu(host::Activation activation, double floor, double gate, double up)
{
    switch (activation) {
    case host::Activation::relu: return gate > floor ? gate * up : 0;
    case host::Activation::silu: return gate / (1 + std::exp(-gate)) * up;
    case host::Activation::drelu: return gate > 0 && up > 0 ? gate * up : 0;
    case host::Activation::gelu: return gate * (1 + std::erf(gate / std::sqrt(2.0))) / 2 * up;
    case host::Activation::gelu_tanh:
        return gate * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (gate + 0.044715 * gate * gate * gate))) / 2 * up;
    case host::Activation::quick_gelu: return gate / (1 + std::exp(-1.702 * gate)) * up;
    }
    return NAN;
}

/// Every activation there is, and relu's floor.
inline constexpr std::pair<host::Activation, float> activations[] = {
    {host::Activation::relu, 0.0f},      {host::Activation::relu, 0.5f}, {host::Activation::silu, 0.0f},
    {host::Activation::drelu, 0.0f},     {host::Activation::gelu, 0.0f}, {host::Activation::gelu_tanh, 0.0f},
    {host::Activation::quick_gelu, 0.0f}};

inline std::vector<float> random_floats(size_t n, uint64_t seed)
{
    RandomNormal normal(seed);
    std::vector<float> x(n);
    for (float& v : x) v = normal();
    return x;
}

}    // namespace hearth::tests
