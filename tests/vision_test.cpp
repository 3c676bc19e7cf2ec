// The vision tower against its plain form and transformers', and rows of embeddings in the language model.
#include "engine/batcher.h"
#include "engine/vision/device_tower.h"
#include "engine/vision/reference.h"
#include "engine/vision/tower.h"
#include "engine/vision/vision.h"
#include "tests/paths.h"

#include <cstring>
#include <fstream>

using namespace hearth;
using namespace hearth::tests;

namespace {

struct RandomTower {
    uint32_t side = 30, patch = 7;    // some pixels are beyond the last patch
    uint32_t dim = 64, heads = 4, neurons = 96, layers = 3;
    uint32_t block_count = 3;
    uint32_t hidden = 80, width = 48;     // of the projector
    WeightType type = WeightType::f16;    // of the matrices
    bool gelu = false;                    // else the quick one
    bool swapped = false;                 // the first matrix of a block is called down, as in older files
    bool norms = false;                   // of the projector
    bool newline = false;
    std::vector<int32_t> feature_layer = {}, grid = {};
};

GgufWriter random_tower(const RandomTower& t)
{
    GgufWriter file;
    RandomNormal normal(5);
    const auto numbers = [&](size_t n, float scale, float around = 0) {
        std::vector<float> x(n);
        for (float& v : x) v = around + scale * normal();
        return x;
    };
    const auto matrix = [&](const std::string& name, uint32_t rows, uint32_t cols) {
        file.tensor(name + ".weight", t.type, rows, cols, numbers(size_t(rows) * cols, 1 / std::sqrt(float(cols))));
        file.tensor(name + ".bias", WeightType::f32, 0, rows, numbers(rows, 0.3f));
    };
    const auto norm = [&](const std::string& name, uint32_t n) {
        file.tensor(name + ".weight", WeightType::f32, 0, n, numbers(n, 0.2f, 1));
        file.tensor(name + ".bias", WeightType::f32, 0, n, numbers(n, 0.3f));
    };
    file.key("general.architecture", "clip");
    file.key("clip.has_vision_encoder", true);
    file.key("clip.projector_type", t.norms ? "mlp_norm" : "mlp");
    file.key("clip.use_gelu", t.gelu);
    for (const auto& [key, value] : {std::pair("image_size", t.side),
                                     {"patch_size", t.patch},
                                     {"embedding_length", t.dim},
                                     {"feed_forward_length", t.neurons},
                                     {"attention.head_count", t.heads},
                                     {"block_count", t.block_count}})
        file.key(std::string("clip.vision.") + key, value);
    file.key("clip.vision.attention.layer_norm_epsilon", 1e-5f);
    file.key("clip.vision.image_mean", std::vector<float>{0.5f, 0.4f, 0.3f});
    file.key("clip.vision.image_std", std::vector<float>{0.25f, 0.2f, 0.3f});
    if (!t.feature_layer.empty()) file.key("clip.vision.feature_layer", t.feature_layer);
    if (!t.grid.empty()) file.key("clip.vision.image_grid_pinpoints", t.grid);

    const uint32_t patches = (t.side / t.patch) * (t.side / t.patch), square = 3 * t.patch * t.patch;
    file.tensor("v.class_embd", WeightType::f32, 0, t.dim, numbers(t.dim, 1));
    file.tensor("v.patch_embd.weight", uint32_t(WeightType::f16), {t.patch, t.patch, 3, t.dim},
                encode_rows(WeightType::f16, numbers(size_t(t.dim) * square, 1 / std::sqrt(float(square))), square));
    file.tensor("v.position_embd.weight", WeightType::f32, 1 + patches, t.dim,
                numbers(size_t(1 + patches) * t.dim, 0.5f));
    norm("v.pre_ln", t.dim);
    for (uint32_t l = 0; l < t.layers; ++l) {
        const std::string layer = fmt::format("v.blk.{}.", l);
        for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_out"}) matrix(layer + name, t.dim, t.dim);
        norm(layer + "ln1", t.dim);
        norm(layer + "ln2", t.dim);
        matrix(layer + (t.swapped ? "ffn_down" : "ffn_up"), t.neurons, t.dim);
        matrix(layer + (t.swapped ? "ffn_up" : "ffn_down"), t.dim, t.neurons);
    }
    norm("v.post_ln", t.dim);
    matrix("mm.0", t.hidden, t.dim);
    matrix(t.norms ? "mm.3" : "mm.2", t.width, t.hidden);
    if (t.norms) {
        norm("mm.1", t.hidden);
        norm("mm.4", t.width);
    }
    if (t.newline) file.tensor("model.image_newline", WeightType::f32, 0, t.width, numbers(t.width, 1));
    return file;
}

TowerWeights read(const GgufWriter& writer, const TemporaryFolder& folder)
{
    writer.write(folder / "mmproj.gguf");
    return read_tower(std::make_shared<Gguf>(folder / "mmproj.gguf"));
}

std::string refusal(const GgufWriter& writer, const TemporaryFolder& folder)
{
    try {
        read(writer, folder);
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

std::vector<float> pixels_of(const TowerWeights& w, size_t tiles, uint64_t seed)
{
    return random_floats(tiles * 3 * w.shape.side * w.shape.side, seed);
}

/// The embeddings of tokens as rows, (ids.size(), dim).
std::vector<float> rows_of(const Weights& w, std::span<const Token> ids)
{
    std::vector<float> rows(ids.size() * w.config.dim);
    for (size_t i = 0; i < ids.size(); ++i) {
        float* const row = &rows[i * w.config.dim];
        host::kernels().of(w.embedding.type).decode(w.embedding.row(ids[i]), row, w.config.dim);
        for (size_t j = 0; j < w.config.dim; ++j) row[j] *= w.config.embedding_scale;
    }
    return rows;
}

std::vector<float> copied(std::span<const float> x) { return {x.begin(), x.end()}; }

/// A text with rows in the place of some of its tokens, which are the rows of just those tokens, is that text.
void check_rows(const std::filesystem::path& model, const Path& path)
{
    INFO(path.name());
    Engine engine(options_for(model, path));
    const uint32_t vocab = engine.config().vocab;
    const std::vector<Token> text = random_ids(vocab, 90, 3), next = random_ids(vocab, 3, 4);
    const auto image = engine.embed(rows_of(engine.weights(), std::span(text).subspan(10, 60)));
    std::vector<Token> mixed = text;
    std::ranges::copy(image->tokens, mixed.begin() + 10);

    Session words = engine.session(), rows = engine.session();
    CHECK(copied(words.feed(text)) == copied(rows.feed(mixed)));
    for (const Token& t : next) CHECK(copied(words.feed(std::span(&t, 1))) == copied(rows.feed(std::span(&t, 1))));

    // Back into the middle of the image, and on; one row at a time is few rows.
    words.rewind(40);
    rows.rewind(40);
    for (size_t i = 40; i < 44; ++i)
        CHECK(copied(words.feed(std::span(text).subspan(i, 1))) == copied(rows.feed(std::span(mixed).subspan(i, 1))));
    Session fork = rows.fork();
    CHECK(copied(words.feed(std::span(text).subspan(44))) == copied(fork.feed(std::span(mixed).subspan(44))));
    check_silence(engine);
}

std::vector<float> floats_of(const std::filesystem::path& path)
{
    const std::string bytes = read_file(path);
    std::vector<float> x(bytes.size() / sizeof(float));
    std::memcpy(x.data(), bytes.data(), x.size() * sizeof(float));
    return x;
}

/// What transformers made of the pictures of a folder, on one path: the logits behind each text, and what follows
/// greedily.
void check_texts(const std::filesystem::path& folder, const nlohmann::json& want, const Path& path)
{
    INFO(path.name());
    EngineOptions options = options_for(folder / "model.gguf", path);
    options.mmproj = folder / "mmproj-model.gguf";
    if (path.device != "cpu") {
        const TowerNeeds tower = tower_needs(*read_tower_of(*options.mmproj, tower_width(*options.mmproj).value()));
        *options.vram_budget += tower.scratch + tower.weights();
    }
    Engine engine(options);
    CHECK((engine.tower_plan().room > 0) == (path.device != "cpu"));
    Vision& vision = engine.vision();
    for (const auto& c : want["texts"]) {
        INFO(c["name"].get<std::string>());
        std::vector<std::shared_ptr<const EmbeddedRows>> images;
        for (const auto& name : c["images"])
            images.push_back(engine.embed(vision.rows(read_image(folder / name.get<std::string>()), ImageMode::crop)));
        std::vector<Token> text;
        size_t image = 0;
        for (const int64_t id : c["ids"].get<std::vector<int64_t>>())
            if (id >= 0) text.push_back(Token(id));
            else text.insert(text.end(), images[image]->tokens.begin(), images[image]->tokens.end()), ++image;
        REQUIRE(image == images.size());
        REQUIRE(text.size() == c["positions"]);
        Session session = engine.session();
        CHECK(worst_error(session.feed(text), c["logits"].get<std::vector<float>>()) < 1e-3);
        session.rewind(uint32_t(text.size()) - 1);
        Sampler sampler({.temperature = 0});
        std::vector<Token> following = {session.next(std::span(text).last(1), sampler).value()};
        const auto greedy = c["greedy"].get<std::vector<Token>>();
        while (following.size() < greedy.size())
            following.push_back(session.next(std::span(&following.back(), 1), sampler).value());
        CHECK(following == greedy);
    }
    check_silence(engine);
}

/// One of each kind, and one of more patches than a page of the KV cache, whose neurons fill no group.
const RandomTower kinds_of_towers[] = {
    {},
    {.gelu = true, .swapped = true},
    {.type = WeightType::f32, .norms = true},
    {.hidden = 96, .type = WeightType::q8_0},
    {.side = 18, .patch = 1, .dim = 32, .heads = 2, .neurons = 72, .layers = 1, .block_count = 1}};

/// Features of some tiles, one behind the other.
std::vector<float> reference_of(const TowerWeights& w, std::span<const float> pixels, size_t tiles)
{
    std::vector<float> all;
    for (size_t tile = 0; tile < tiles; ++tile) {
        const auto features =
            reference_features(w, pixels.subspan(tile * pixels.size() / tiles, pixels.size() / tiles));
        all.insert(all.end(), features.begin(), features.end());
    }
    return all;
}

}    // namespace

TEST_SUITE("vision")
{
    TEST_CASE("a tower gives the reference's features, in every kind of file")
    {
        TemporaryFolder folder;
        host::Team team(2);
        for (const RandomTower& t : kinds_of_towers) {
            const TowerWeights w = read(random_tower(t), folder);
            const std::vector<float> pixels = pixels_of(w, 2, 9);
            const std::vector<float> got = Tower(w, team).features(pixels);
            const std::vector<float> want = reference_of(w, pixels, 2);
            CHECK(want.size() == 2 * w.patches() * w.width());
            CHECK(worst_error(got, want) < 1e-3);
        }
    }

    TEST_CASE("older files and newer ones come to the same: their matrices and their newline have other names")
    {
        TemporaryFolder folder;
        host::Team team(2);
        const TowerWeights now = read(random_tower({.newline = true}), folder);
        const std::vector<float> pixels = pixels_of(now, 1, 2), want = Tower(now, team).features(pixels);
        GgufWriter older = random_tower({.swapped = true, .newline = true});
        older.remove("model.image_newline");
        older.tensor("v.image_newline", WeightType::f32, 0, 48, now.newline);
        older.write(folder / "older.gguf");
        const TowerWeights then = read_tower(std::make_shared<Gguf>(folder / "older.gguf"));
        CHECK(Tower(then, team).features(pixels) == want);
        CHECK(then.newline == now.newline);
    }

    TEST_CASE("a damaged file is refused in a sentence, or gives features or none that are not finite")
    {
        const std::string whole = random_tower({.side = 8,
                                                .patch = 4,
                                                .dim = 32,
                                                .heads = 2,
                                                .neurons = 32,
                                                .layers = 1,
                                                .block_count = 1,
                                                .hidden = 32,
                                                .width = 32,
                                                .newline = true,
                                                .grid = {8, 16}})
                                      .bytes();
        const size_t header = whole.find("v.class_embd") + 6000;
        host::Team team(1);
        std::mt19937_64 random(1);
        int refused = 0, read = 0;
        for (int i = 0; i < 1500; ++i) {
            std::vector<uint64_t> memory(whole.size() / 8 + 1);    // aligned
            std::memcpy(memory.data(), whole.data(), whole.size());
            char* const bytes = reinterpret_cast<char*>(memory.data());
            const size_t size = i % 5 == 0 ? random() % whole.size() : whole.size();
            for (int flips = 0; flips < 1 + i % 3; ++flips) bytes[random() % header] ^= char(1u << random() % 8);
            try {
                const auto file = std::make_shared<Gguf>("damaged.gguf", std::string_view(bytes, size));
                const TowerWeights w = read_tower(file);
                ++read;
                if (w.shape.side <= 64) Tower(w, team).features(pixels_of(w, 1, 1));
            } catch (const Error& e) {
                CHECK(std::string_view(e.what()).find("damaged.gguf") != std::string_view::npos);
                ++refused;
            }
        }
        CHECK(refused > 500);
        CHECK(read > 100);
    }

    TEST_CASE("features do not depend on the threads or on other tiles")
    {
        TemporaryFolder folder;
        const TowerWeights w = read(random_tower({}), folder);
        host::Team one(1), three(3);
        Tower tower(w, three);
        const std::vector<float> pixels = pixels_of(w, 3, 1), all = tower.features(pixels);
        const size_t n = pixels.size() / 3;
        const std::vector<float> last = Tower(w, one).features(std::span(pixels).subspan(2 * n));
        CHECK(std::equal(last.begin(), last.end(), all.begin() + ptrdiff_t(2 * all.size() / 3)));
        CHECK(tower.features(pixels, [] { return true; }).empty());
    }

    TEST_CASE("as many layers are run as the file means")
    {
        TemporaryFolder folder;
        const auto run = [&](uint32_t layers, std::vector<int32_t> feature_layer) {
            return read(random_tower({.dim = 32,
                                      .heads = 2,
                                      .neurons = 32,
                                      .layers = layers,
                                      .block_count = layers,
                                      .feature_layer = std::move(feature_layer)}),
                        folder)
                .config()
                .layers;
        };
        CHECK(run(24, {}) == 23);
        CHECK(run(23, {}) == 23);
        CHECK(run(24, {23}) == 23);
        CHECK(run(24, {24}) == 24);
        CHECK(run(4, {3}) == 3);
        CHECK(run(4, {}) == 4);
    }

    TEST_CASE("what is wrong with a tower's file is said by name")
    {
        TemporaryFolder folder;
        const auto without = [&](const char* name) {
            GgufWriter file = random_tower({});
            REQUIRE(file.remove(name));
            return refusal(file, folder);
        };
        for (const char* tensor : {"v.class_embd", "v.patch_embd.weight", "v.position_embd.weight", "v.pre_ln.bias",
                                   "v.blk.1.attn_out.weight", "v.blk.2.ffn_down.bias", "mm.0.weight", "mm.2.bias"})
            CHECK(without(tensor).find(fmt::format("has no tensor {}", tensor)) != std::string::npos);
        for (const char* key : {"clip.vision.image_size", "clip.vision.block_count", "clip.vision.image_mean"})
            CHECK(without(key).find(key) != std::string::npos);
        const auto with = [&](const RandomTower& t, const auto& change) {
            GgufWriter file = random_tower(t);
            change(file);
            return refusal(file, folder);
        };
        const auto has = [](const std::string& text, const char* part) {
            INFO(text);
            CHECK(text.find(part) != std::string::npos);
        };
        has(with({}, [](GgufWriter& f) { f.tensor("v.blk.7.extra", WeightType::f32, 0, 4, {1, 2, 3, 4}); }), "");
        has(with({},
                 [](GgufWriter& f) {
                     f.tensor("v.extra", WeightType::f32, 0, 4, {1, 2, 3, 4});
                 }),
            "has the tensor v.extra");
        has(with({.heads = 3}, [](GgufWriter&) {}), "3 heads");
        has(with({.grid = {30, 60}}, [](GgufWriter&) {}), "no tensor model.image_newline");
        has(with({.newline = true, .grid = {30, 61}}, [](GgufWriter&) {}), "61, expected a multiple of 30");
        has(with({.feature_layer = {1, 2}}, [](GgufWriter&) {}), "names 2 layers");
        has(with({.feature_layer = {4}}, [](GgufWriter&) {}), "feature_layer is 4");
        has(with({}, [](GgufWriter& f) { f.remove("clip.projector_type"), f.key("clip.projector_type", "resampler"); }),
            "clip.projector_type is resampler");
        has(with({}, [](GgufWriter& f) { f.remove("general.architecture"), f.key("general.architecture", "llama"); }),
            "mmproj");
        has(with({}, [](GgufWriter& f) { f.remove("clip.vision.image_size"), f.key("clip.vision.image_size", 37u); }),
            "v.position_embd.weight is 64 x 17, expected 64 x 26");
    }

    TEST_CASE("numbers that are not finite are refused, and the file is named")
    {
        TemporaryFolder folder;
        GgufWriter file = random_tower({});
        file.remove("mm.2.bias");
        file.tensor("mm.2.bias", WeightType::f32, 0, 48, std::vector<float>(48, NAN));
        host::Team team(1);
        const TowerWeights w = read(file, folder);
        CHECK_THROWS_WITH_AS(Tower(w, team).features(pixels_of(w, 1, 1)), doctest::Contains("mmproj.gguf"), Error);
    }

    TEST_CASE("rows of embeddings stand in a text in the place of tokens, on the CPU")
    {
        TemporaryFolder folder;
        check_rows(shipped_model(), {.device = "cpu"});
        check_rows(shipped_model(), {.device = "cpu", .sparsity = Sparsity::exact, .batch = 16});
        for (const char* architecture : {"gemma2", "opt"})    // the embedding is scaled, or has positions
            check_rows(write_random_model(folder / "model.gguf", {.architecture = architecture, .context = 512}),
                       {.device = "cpu"});
    }

    TEST_CASE("the same rows have the same tokens as long as somebody has them, and never those of others")
    {
        Engine engine(options_for(shipped_model(), {.device = "cpu"}));
        const auto rows = [&](uint64_t seed) { return random_floats(3 * engine.config().dim, seed); };
        const auto one = engine.embed(rows(1)), two = engine.embed(rows(2)), again = engine.embed(rows(1));
        CHECK(one->tokens == again->tokens);
        CHECK(one->tokens != two->tokens);
        const std::vector<Token> before = two->tokens;
        for (const auto& image : {one, two})
            for (const Token t : image->tokens) CHECK(is_row(t));
        std::vector<Token> gone;
        {
            const auto three = engine.embed(rows(3));
            gone = three->tokens;
        }
        const auto four = engine.embed(rows(4));
        for (const Token t : four->tokens) CHECK(std::ranges::count(gone, t) == 0);
        CHECK(engine.embed(rows(2))->tokens == before);
    }

    TEST_CASE("requests with images run together give what each gives alone")
    {
        EngineOptions options = options_for(shipped_model(), {.device = "cpu"});
        options.sequences = 3;
        Engine engine(options);
        const Weights& w = engine.weights();
        const std::vector<Token> text = random_ids(engine.config().vocab, 50, 8);
        const auto image = engine.embed(rows_of(w, std::span(text).first(20)));
        std::vector<std::vector<Token>> prompts = {text, text};
        std::ranges::copy(image->tokens, prompts[1].begin());
        std::vector<std::vector<Token>> written(2);
        Batcher batcher(engine);
        for (size_t i = 0; i < 2; ++i)
            batcher.add({.prompt = prompts[i],
                         .sampling = {.temperature = 0, .repeat_penalty = 1.2f},
                         .count = 12,
                         .on_token = [&, i](Token t) {
                             written[i].push_back(t);
                             return true;
                         }});
        while (batcher.step()) {}
        CHECK(written[0].size() == 12);
        CHECK(written[1].size() == 12);
    }
}

TEST_SUITE("device")
{
    TEST_CASE("a tower gives the reference's features on the device, kept there or passing through, and gives back "
              "what it took")
    {
        TemporaryFolder folder;
        host::Team team(2);
        for (const RandomTower& t : kinds_of_towers) {
            const TowerWeights w = read(random_tower(t), folder);
            const std::vector<float> pixels = pixels_of(w, 2, 9);
            const std::vector<float> want = reference_of(w, pixels, 2);
            const TowerNeeds needs = tower_needs(w);
            const uint64_t all = needs.weights(), largest = *std::ranges::max_element(needs.pieces);
            for (const vulkan::Features& features : feature_sets) {
                const auto device = test_device(features);
                const uint64_t before = device->allocated();
                for (const uint64_t room : {all, largest}) {
                    DeviceTower tower(w, device, team, {.room = room});
                    CHECK(device->allocated() == before);
                    for (int again = 0; again < (t.gelu ? 2 : 1); ++again) {
                        device->take_most_allocated();
                        CHECK(worst_error(tower.features(pixels), want) < 1e-3);
                        const uint64_t most = device->take_most_allocated() - before;
                        CHECK(most > needs.scratch);
                        CHECK(most <= needs.scratch + room);
                        CHECK((device->allocated() > before) == (room == all));
                    }
                    CHECK(tower.features(pixels, [] { return true; }).empty());
                }
                CHECK(device->allocated() == before);
            }
        }
        check_silence();
    }

    TEST_CASE("device memory stays within ten budgets with a tower in it, and images stay on the CPU where one is too "
              "small, which is said")
    {
        TemporaryFolder folder;
        const auto model = write_random_model(folder / "model.gguf", {.layers = 3, .dim = 96, .neurons = 400});
        random_tower({.width = 96}).write(folder / "mmproj.gguf");
        const auto weights = read_tower_of(folder / "mmproj.gguf", 96);
        const TowerNeeds tower = tower_needs(*weights);
        const uint64_t all_of_tower = tower.scratch + tower.weights();
        host::Team team(2);
        const Pixels pixels = {.tiles = 1, .width = 30, .height = 30, .values = pixels_of(*weights, 1, 3)};
        const std::vector<float> want = Vision(weights, team).rows(pixels);
        int on_cpu = 0, passing = 0, kept = 0;
        for (int i = 0; i < 10; ++i) {
            EngineOptions options = options_for(model, {.device = device_name});
            const Needs needs = device_needs(describe_weights(std::make_shared<Gguf>(model)), options);
            const uint64_t least = least_budget(needs), most = *options.vram_budget + all_of_tower;
            options.vram_budget = least + (most - least) * uint64_t(i) / 9;
            options.mmproj = folder / "mmproj.gguf";
            options.ring_bytes = 1;    // the tower's pieces pass one by one
            if (i % 3 != 0) options.keep_vision = i % 3 == 1;
            test_device()->take_most_allocated();    // the engine's; what others had
            Engine engine(options);
            INFO(engine.summary());
            Session session = engine.session();
            const uint64_t before = engine.device_bytes();
            const Token bos = 1;
            session.feed(std::span(&bos, 1));
            CHECK(engine.take_most_device_bytes() <= *options.vram_budget);
            CHECK(worst_error(engine.vision().rows(pixels), want) < 1e-3);
            const uint64_t highest = engine.take_most_device_bytes();
            CHECK(highest <= *options.vram_budget);
            CHECK(highest <= engine.plan().bytes + engine.tower_plan().bytes);
            const bool said = std::ranges::any_of(
                engine.notes(), [](const std::string& note) { return note.starts_with("images are the CPU's:"); });
            CHECK(said == (engine.tower_plan().room == 0));
            if (said) {
                CHECK(highest == before);
                ++on_cpu;
            } else if (engine.tower_plan().kept) {
                CHECK(engine.device_bytes() > before);
                ++kept;
            } else {
                CHECK(highest > before);
                CHECK(engine.device_bytes() == before);
                ++passing;
            }
            session.feed(engine.embed(want)->tokens);
            CHECK(engine.take_most_device_bytes() <= *options.vram_budget);
            check_silence(engine);
        }
        CHECK(on_cpu > 0);
        CHECK(passing > 0);
        CHECK(kept > 0);
    }

    TEST_CASE("the pictures of a folder give the features, the logits and the greedy ids that lie beside them" *
              doctest::skip())
    {
        const std::filesystem::path folder(case_folder);
        const auto want = nlohmann::json::parse(read_file(folder / "expected.json"));
        host::Team team(2);
        const TowerWeights w = read_tower(std::make_shared<Gguf>(folder / "mmproj-model.gguf"));
        const std::vector<float> tiles = floats_of(folder / "tiles.bin"), features = floats_of(folder / "features.bin");
        CHECK(worst_error(Tower(w, team).features(tiles), features) < 1e-3);
        for (const vulkan::Features& set : feature_sets)
            CHECK(
                worst_error(DeviceTower(w, test_device(set), team, {.room = tower_needs(w).weights()}).features(tiles),
                            features) < 1e-3);
        // The plain form takes an hour for a tower of the usual size.
        if (w.config().dim < 1024)
            CHECK(worst_error(reference_features(w, std::span(tiles).first(3 * w.shape.side * w.shape.side)),
                              std::span(features).first(features.size() * 3 * w.shape.side * w.shape.side /
                                                        tiles.size())) < 1e-4);
        Vision vision(read_tower_of(folder / "mmproj-model.gguf", w.width()), team);
        REQUIRE(!want["pictures"].empty());
        for (const auto& c : want["pictures"]) {
            INFO(c["name"].get<std::string>());
            const std::vector<float> rows =
                vision.rows(read_image(folder / c["name"].get<std::string>()), ImageMode::crop);
            const std::vector<float> expected = floats_of(folder / c["rows"].get<std::string>());
            REQUIRE(rows.size() == expected.size());
            CHECK(worst_error(rows, expected) < 1e-3);
        }
        for (const Path& path : {Path{.device = "cpu"},
                                 {.device = device_name},
                                 {.device = device_name, .resident = 0.5},
                                 {.device = device_name, .resident = 0.5, .layers = 1}})
            check_texts(folder, want, path);
    }

    TEST_CASE("rows of embeddings stand in a text in the place of tokens, on the device and split")
    {
        for (const Path& path : {Path{.device = device_name},
                                 {.device = device_name, .resident = 0.5},
                                 {.device = device_name, .resident = 0.5, .layers = 3}})
            check_rows(shipped_model(), path);
    }
}
