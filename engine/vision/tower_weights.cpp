#include "engine/vision/tower_weights.h"

#include "engine/model/tensors.h"

#include <cmath>

namespace hearth {

namespace {

// Far above every tower there is.
constexpr uint32_t max_side = 4096, max_patches = 1 << 14, max_layers = 300, max_dim = 1 << 16, max_heads = 1 << 12,
                   max_head_dim = 256, max_neurons = 1 << 20;
constexpr size_t max_grid = 64, max_tiles = 64;

/// Throws Error where the file is no tower with a projector of LLaVA's.
void check_kind(const Gguf& file)
{
    const std::string path = file.path().string();
    if (file.string("general.architecture", "") != "clip" || !file.boolean("clip.has_vision_encoder", true))
        throw Error(
            "{} is no file of a model's part for images (mmproj), whose architecture is clip: give the one that "
            "belongs to the model",
            path);
    for (const char* key : {"clip.projector_type", "clip.vision.projector_type"})
        if (const std::string_view type = file.string(key, "mlp"); type != "mlp" && type != "mlp_norm")
            throw Error("{}: {} is {:.60}, which this version cannot run; it runs mlp, of LLaVA 1.5 and 1.6", path, key,
                        printable(type));
    if (file.string("clip.vision.mm_patch_merge_type", "spatial_unpad") != "spatial_unpad" &&
        file.integers("clip.vision.image_grid_pinpoints"))
        throw Error("{}: clip.vision.mm_patch_merge_type is {:.60}, and for a picture in tiles this version knows "
                    "spatial_unpad alone",
                    path, printable(file.string("clip.vision.mm_patch_merge_type")));
}

host::Activation activation_of(const Gguf& file)
{
    if (file.boolean("clip.use_silu", false)) return host::Activation::silu;
    return file.boolean("clip.use_gelu", false) ? host::Activation::gelu : host::Activation::quick_gelu;
}

/// How many layers a picture goes through: feature_layer is the number of the hidden state that is taken, 0 being what
/// enters the first. Without that key the last but one's state of a CLIP tower: older files have left the last layer
/// out and say so, others have all 24.
uint32_t layers_to_run(const Gguf& file, uint32_t stored)
{
    const std::vector<int64_t>* features = file.integers("clip.vision.feature_layer");
    if (!features) return stored == 24 ? 23 : stored;
    const std::string path = file.path().string();
    if (features->size() != 1)
        throw Error("{}: clip.vision.feature_layer names {} layers, and this version takes the features of one", path,
                    features->size());
    const int64_t layer = (*features)[0];
    if (layer < 1 || layer > stored)
        throw Error("{}: clip.vision.feature_layer is {}, expected 1 to {}", path, layer, stored);
    return uint32_t(layer);
}

Config read_config_of(const Gguf& file)
{
    const auto size = [&](const char* key, uint32_t most) {
        const std::string name = std::string("clip.vision.") + key;
        return checked(file, name, file.u64(name), most);
    };
    Config c = {.architecture = "clip", .name = std::string(file.string("general.name", file.path().stem().string()))};
    c.dim = size("embedding_length", max_dim);
    c.heads = c.kv_heads = size("attention.head_count", max_heads);
    c.head_dim = checked(file, "the width of a head", c.dim / c.heads, max_head_dim);
    if (c.dim % c.heads || c.head_dim % 2)
        throw Error("{}: {} heads do not share a width of {} in even parts", file.path().string(), c.heads, c.dim);
    c.neurons = size("feed_forward_length", max_neurons);
    c.layers = layers_to_run(file, size("block_count", max_layers));
    c.norm_eps = file.f32("clip.vision.attention.layer_norm_epsilon", 1e-5f);
    c.score_scale = 1 / std::sqrt(float(c.head_dim));
    c.layer_norm = true;
    c.activation = activation_of(file);
    return c;
}

/// Three numbers above `least`.
std::array<float, 3> colours(const Gguf& file, const char* key, double least)
{
    const std::vector<double>* said = file.floats(key);
    if (!said) throw Error("{} has no key {}; convert the model again", file.path().string(), key);
    if (said->size() != 3) throw Error("{}: {} has {} numbers, expected 3", file.path().string(), key, said->size());
    for (const double x : *said)
        if (!(x > least && x < 256)) throw Error("{}: {} has the value {}", file.path().string(), key, x);
    return {float((*said)[0]), float((*said)[1]), float((*said)[2])};
}

void read_grid(const Gguf& file, TowerWeights& w)
{
    constexpr const char* key = "clip.vision.image_grid_pinpoints";
    const std::vector<int64_t>* said = file.integers(key);
    if (!said || said->empty() || !file.string("clip.vision.image_aspect_ratio", "anyres").starts_with("anyres"))
        return;
    const std::string path = file.path().string();
    if (said->size() % 2 || said->size() > 2 * max_grid)
        throw Error("{}: {} has {} numbers, expected pairs, {} at the most", path, key, said->size(), max_grid);
    for (size_t i = 0; i < said->size(); i += 2) {
        for (const int64_t x : {(*said)[i], (*said)[i + 1]})
            if (x < w.shape.side || x % w.shape.side || x / w.shape.side > int64_t(max_tiles))
                throw Error("{}: {} has the number {}, expected a multiple of {}", path, key, x, w.shape.side);
        w.shape.grid.push_back({uint32_t((*said)[i]), uint32_t((*said)[i + 1])});
        if (w.shape.grid.back()[0] / w.shape.side * (w.shape.grid.back()[1] / w.shape.side) > max_tiles)
            throw Error("{}: {} has a picture of more than {} tiles", path, key, max_tiles);
    }
}

LayerWeights read_layer(Tensors& tensors, const Config& c, uint32_t l)
{
    const std::string prefix = fmt::format("v.blk.{}.", l);
    const auto bias = [&](const char* name, uint32_t n) { return tensors.vector(prefix + name + ".bias", n); };
    const auto square = [&](const char* name) { return tensors.matrix(prefix + name + ".weight", c.dim, c.dim); };
    LayerWeights layer;
    tensors.norm(prefix + "ln1", c, layer.attn_norm, layer.attn_norm_bias);
    AttentionWeights& a = layer.attention;
    a.k_dim = a.v_dim = c.head_dim;
    a.q = square("attn_q"), a.q_bias = bias("attn_q", c.dim);
    a.k = square("attn_k"), a.k_bias = bias("attn_k", c.dim);
    a.v = square("attn_v"), a.v_bias = bias("attn_v", c.dim);
    a.o = square("attn_out"), a.o_bias = bias("attn_out", c.dim);
    tensors.norm(prefix + "ln2", c, layer.ffn_norm, layer.ffn_norm_bias);
    // Older files call the first matrix down and the second one up.
    const bool swapped = c.dim != c.neurons && tensors.rows(prefix + "ffn_down.weight", max_neurons) == c.neurons;
    const std::string first = prefix + (swapped ? "ffn_down" : "ffn_up"),
                      second = prefix + (swapped ? "ffn_up" : "ffn_down");
    layer.ffn = {.gate = tensors.matrix(first + ".weight", c.neurons, c.dim), .activation = c.activation};
    layer.ffn.bias = tensors.column(first + ".bias", c.neurons);
    layer.ffn.down = tensors.matrix(second + ".weight", c.dim, c.neurons);
    layer.down_bias = tensors.vector(second + ".bias", c.dim);
    return layer;
}

Projection read_projection(Tensors& tensors, uint32_t place, uint32_t norm_place, uint32_t cols)
{
    const std::string name = fmt::format("mm.{}.", place), norm = fmt::format("mm.{}.", norm_place);
    Projection p = {.weight = tensors.matrix(name + "weight", tensors.rows(name + "weight", max_dim), cols)};
    p.bias = tensors.vector(name + "bias", p.weight.rows);
    if (norm_place == 0) return p;
    p.norm = tensors.vector(norm + "weight", p.weight.rows);
    p.norm_bias = tensors.vector(norm + "bias", p.weight.rows);
    return p;
}

void read_newline(Tensors& tensors, TowerWeights& w)
{
    for (const char* name : {"model.image_newline", "v.image_newline"})
        if (tensors.has(name)) w.newline = tensors.vector(name, w.width());
    if (!w.shape.grid.empty() && w.newline.empty())
        throw Error("{} cuts pictures into tiles, and has no tensor model.image_newline; convert the model again",
                    w.blocks.file->path().string());
}

/// Of one that is used, nothing may be missing; of the rest, what other programs keep and LLaVA does not use.
void leave_unused(Tensors& tensors, uint32_t layers)
{
    tensors.leave("v.post_ln.");
    for (uint32_t l = layers; l < max_layers; ++l) tensors.leave(fmt::format("v.blk.{}.", l));
}

}    // namespace

TowerWeights describe_usual_tower(uint32_t width)
{
    TowerWeights w;
    Config& c = w.blocks.config = {.architecture = "clip", .name = "CLIP-L/336"};
    c.layers = 23, c.dim = 1024, c.neurons = 4096;
    c.heads = c.kv_heads = 16, c.head_dim = c.dim / c.heads;
    c.score_scale = 1 / std::sqrt(float(c.head_dim));
    c.layer_norm = true;
    c.activation = host::Activation::quick_gelu;
    const auto matrix = [](uint32_t rows, uint32_t cols) {
        return Matrix{.type = WeightType::f16, .rows = rows, .cols = cols};
    };
    const auto vector = [](uint32_t n) { return std::vector<float>(n); };
    LayerWeights layer;
    layer.attn_norm = layer.attn_norm_bias = layer.ffn_norm = layer.ffn_norm_bias = layer.down_bias = vector(c.dim);
    AttentionWeights& a = layer.attention;
    a.k_dim = a.v_dim = c.head_dim;
    a.q = a.k = a.v = a.o = matrix(c.dim, c.dim);
    a.q_bias = a.k_bias = a.v_bias = a.o_bias = vector(c.dim);
    layer.ffn = {.gate = matrix(c.neurons, c.dim), .activation = c.activation};
    layer.ffn.down = matrix(c.dim, c.neurons);
    layer.ffn.bias = {.type = WeightType::f32, .rows = c.neurons, .cols = 1};
    w.blocks.layers.assign(c.layers, layer);
    w.projector[0] = {.weight = matrix(width, c.dim), .bias = vector(width)};
    w.projector[1] = {.weight = matrix(width, width), .bias = vector(width)};
    return w;
}

TowerWeights read_tower(std::shared_ptr<const Gguf> file)
{
    HEARTH_CHECK(file->complete());
    check_kind(*file);
    file->check_sparse_rows();
    TowerWeights w;
    w.blocks.file = file;
    const Config& c = w.blocks.config = read_config_of(*file);
    const auto pixels = [&](const char* key, uint32_t most) { return checked(*file, key, file->u64(key), most); };
    w.shape.side = pixels("clip.vision.image_size", max_side);
    w.shape.patch = pixels("clip.vision.patch_size", w.shape.side);
    checked(*file, "the number of patches of a picture", w.patches(), max_patches);
    w.shape.mean = colours(*file, "clip.vision.image_mean", -1);
    w.shape.deviation = colours(*file, "clip.vision.image_std", 0);
    read_grid(*file, w);

    Tensors tensors(*file);
    w.filters = tensors.filters("v.patch_embd.weight", c.dim, 3, w.shape.patch);
    if (tensors.has("v.patch_embd.bias")) w.filter_bias = tensors.vector("v.patch_embd.bias", c.dim);
    w.class_embedding = tensors.vector("v.class_embd", c.dim);
    w.positions = tensors.matrix("v.position_embd.weight", 1 + w.patches(), c.dim);
    tensors.norm("v.pre_ln", c, w.before_norm, w.before_norm_bias);
    for (uint32_t l = 0; l < c.layers; ++l) w.blocks.layers.push_back(read_layer(tensors, c, l));
    const bool norms = tensors.has("mm.3.weight");    // mlp_norm: a linear layer and its norm, a GELU, and both again
    w.projector[0] = read_projection(tensors, 0, norms ? 1 : 0, c.dim);
    w.projector[1] = read_projection(tensors, norms ? 3 : 2, norms ? 4 : 0, w.projector[0].weight.rows);
    read_newline(tensors, w);
    leave_unused(tensors, c.layers);
    tensors.refuse_unused("what the model sees would be wrong");
    return w;
}

}    // namespace hearth
