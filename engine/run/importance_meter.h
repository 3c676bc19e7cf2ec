// Measures what the columns of a model's matrices are multiplied with, on the host, whatever the plan says.
#pragma once

#include "engine/model/importance.h"
#include "engine/run/host_layers.h"

namespace hearth {

class ImportanceMeter {
  public:
    /// For windows of at most so many tokens. `weights` and `team` must outlive this.
    ImportanceMeter(const Weights& weights, host::Team& team, uint32_t window);
    ImportanceMeter(const ImportanceMeter&) = delete;

    /// Runs a window from position 0 and adds what it shows. Throws Error where a sum is no finite number.
    void window(std::span<const Token> tokens);

    /// Of all windows so far; which texts they were is not known here.
    Importance measured() const;

  private:
    /// The squares of the inputs that some matrices share, added up; experts have inputs of their own.
    struct Sums {
        std::vector<double> of_column;    // (experts, columns)
        std::vector<uint64_t> count;      // (experts)

        explicit Sums(size_t columns, size_t experts = 1) : of_column(columns * experts), count(experts) {}
        /// Column i of row r is x[r * stride + i * step].
        void add(size_t expert, size_t rows, const float* x, size_t stride, size_t step);
    };
    struct Layer {
        Sums attention, attn_output, ffn, ffn_down;    // what these read
    };
    void block(const LayerActivity& activity);
    /// Who reads the matrix of a tensor's name; nullptr: it is multiplied with nothing that was measured.
    const Sums* inputs_of(std::string_view tensor) const;

    const Weights& weights_;
    host::Team& team_;
    uint32_t window_, windows_ = 0;
    HostLayers layers_;
    std::vector<Layer> sums_;
    Sums output_;
    host::Inputs inputs_;
    host::FfnScratch scratch_;
    std::vector<float> x_, rows_;
};

}    // namespace hearth
