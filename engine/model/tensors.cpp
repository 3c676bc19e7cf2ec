#include "engine/model/tensors.h"

#include "host/kernels.h"

namespace hearth {

namespace {

std::string known_formats()
{
    std::string known;
    for (const WeightFormat& f : weight_formats) known += (known.empty() ? "" : ", ") + std::string(f.name);
    return known;
}

}    // namespace

uint32_t Tensors::rows(const std::string& name, uint32_t most) const
{
    const GgufTensor* t = file_.find(name);
    return t ? checked(file_, "the number of rows of " + name, t->shape.size() > 1 ? t->shape[1] : 0, most) : 0;
}

Matrix Tensors::matrix(const std::string& name, uint32_t rows, uint32_t cols)
{
    const GgufTensor& t = tensor(name, {cols, rows});
    return {WeightType(t.type), rows, cols, t.data, 0, t.starts};
}

void Tensors::norm(const std::string& name, const Config& c, std::vector<float>& weight, std::vector<float>& bias)
{
    weight = vector(name + ".weight", c.dim);
    if (c.layer_norm) bias = vector(name + ".bias", c.dim);
}

std::vector<float> Tensors::vector(const std::string& name, uint32_t n)
{
    const GgufTensor& t = tensor(name, {n});
    if (is_quantised(WeightType(t.type)) || t.starts)
        throw Error("{}: {} is {}, expected F32", path_, name, t.type_name());
    if (!t.there) return std::vector<float>(n, 1);    // shapes alone are asked for
    std::vector<float> x(n);
    host::kernels().of(WeightType(t.type)).decode(t.data, x.data(), n);
    return x;
}

Matrix Tensors::column(const std::string& name, uint32_t n)
{
    const GgufTensor& t = tensor(name, {n});
    if (WeightType(t.type) != WeightType::f32) throw Error("{}: {} is {}, expected F32", path_, name, t.type_name());
    return {WeightType::f32, n, 1, t.data};
}

Matrix Tensors::experts(const std::string& name, uint32_t experts, uint32_t rows, uint32_t cols)
{
    const GgufTensor& t = tensor(name, {cols, rows, experts});    // never with sparse rows: those have two dimensions
    return {WeightType(t.type), experts * rows, cols, t.data};
}

Matrix Tensors::filters(const std::string& name, uint32_t rows, uint32_t channels, uint32_t side)
{
    const GgufTensor& t = tensor(name, {side, side, channels, rows});
    // Of other types a block would hold numbers of two rows.
    if (is_quantised(WeightType(t.type))) throw Error("{}: {} is {}, expected F16 or F32", path_, name, t.type_name());
    return {WeightType(t.type), rows, channels * side * side, t.data};
}

void Tensors::leave(std::string_view prefix)
{
    for (const GgufTensor& t : file_.tensors())
        if (t.name.starts_with(prefix)) used_.insert(t.name);
}

void Tensors::refuse_unused(std::string_view else_what) const
{
    for (const GgufTensor& t : file_.tensors())
        if (!used_.contains(t.name))
            throw Error("{} has the tensor {}, which this version does not know; without it {}", path_, t.name,
                        else_what);
}

const GgufTensor& Tensors::tensor(const std::string& name, std::vector<uint64_t> expected)
{
    const GgufTensor* t = file_.find(name);
    if (!t) throw Error("{} has no tensor {}; convert the model again", path_, name);
    if (!find_format(t->type))
        throw Error("{}: {} is {}, which this version cannot read; it reads {}: get a file of one of these, or "
                    "make one of the original model",
                    path_, name, t->type_name(), known_formats());
    std::vector<uint64_t> shape = t->shape;
    while (shape.size() > expected.size() && shape.back() == 1) shape.pop_back();
    if (shape != expected)
        throw Error("{}: {} is {}, expected {} (columns x rows)", path_, name, fmt::join(t->shape, " x "),
                    fmt::join(expected, " x "));
    used_.insert(t->name);
    return *t;
}

}    // namespace hearth
