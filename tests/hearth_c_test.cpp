// The C interface: what it refuses, and that it gives what the engine gives. tests/package_test.py uses it from C.
#include "engine/hearth.h"
#include "tests/support.h"

#include <thread>

using namespace hearth;

namespace {

using Model = std::unique_ptr<hearth_model, decltype(&hearth_close)>;

Model open_shipped()
{
    Model model(hearth_open(tests::shipped_model().string().c_str(), "cpu", -1), hearth_close);
    INFO(hearth_error());
    REQUIRE(model);
    return model;
}

int append(const char* text, size_t length, void* user)
{
    static_cast<std::string*>(user)->append(text, length);
    return text[length];
}

std::string story(hearth_model* model, int64_t count, const hearth_sampling* sampling = nullptr)
{
    std::string text;
    CHECK(hearth_generate(model, "Once upon a time", sampling, count, append, &text) == count);
    return text;
}

bool says(const char* words) { return std::string_view(hearth_error()).find(words) != std::string_view::npos; }

}    // namespace

TEST_SUITE("C interface")
{
    TEST_CASE("a text has the tokens that the engine gives it, and no more are written than there is room for")
    {
        const Model model = open_shipped();
        const Gguf file(tests::shipped_model());
        const Tokenizer tokenizer(file);
        std::vector<Token> wanted = tokenizer.encode("Once upon a time");
        if (tokenizer.add_bos()) wanted.insert(wanted.begin(), tokenizer.bos());
        CHECK(hearth_tokenize(model.get(), "Once upon a time", nullptr, 0) == int64_t(wanted.size()));
        std::vector<int32_t> tokens(wanted.size() + 1, -7);
        CHECK(hearth_tokenize(model.get(), "Once upon a time", tokens.data(), 2) == int64_t(wanted.size()));
        CHECK((tokens[1] == int32_t(wanted[1]) && tokens[2] == -7));
        CHECK(hearth_tokenize(model.get(), "Once upon a time", tokens.data(), tokens.size()) == int64_t(wanted.size()));
        CHECK(std::ranges::equal(wanted, std::span(tokens).first(wanted.size()), {}, {},
                                 [](int32_t t) { return Token(t); }));
        CHECK(tokens.back() == -7);
    }

    TEST_CASE("each text is a conversation of its own: the same seed gives it again, another seed another")
    {
        const Model model = open_shipped();
        const std::string first = story(model.get(), 16);
        CHECK(!first.empty());
        CHECK(story(model.get(), 16) == first);
        hearth_sampling other = hearth_default_sampling();
        CHECK(story(model.get(), 16, &other) == first);
        other.seed = 1;
        CHECK(story(model.get(), 16, &other) != first);
        CHECK(story(model.get(), 0).empty());
    }

    TEST_CASE("a callback ends its text, and may not use the model that calls it")
    {
        const Model model = open_shipped();
        const auto meddle = [](const char*, size_t, void* user) {
            CHECK(hearth_tokenize(static_cast<hearth_model*>(user), "x", nullptr, 0) == -1);
            CHECK(says("while another call uses the model"));
            return 1;
        };
        CHECK(hearth_generate(model.get(), "Once upon a time", nullptr, 16, meddle, model.get()) == 1);
        CHECK(hearth_tokenize(model.get(), "x", nullptr, 0) > 0);
    }

    TEST_CASE("an error is of its thread alone, and models in two threads do not disturb one another")
    {
        const Model model = open_shipped();
        CHECK(hearth_open("/no/such/model.gguf", "cpu", -1) == nullptr);
        CHECK(says("/no/such/model.gguf"));
        const std::string alone = story(model.get(), 16);
        std::string error, other;
        std::thread thread([&] {
            error = hearth_error();
            other = story(open_shipped().get(), 16);
        });
        CHECK(story(model.get(), 16) == alone);
        thread.join();
        CHECK(error.empty());
        CHECK(other == alone);
        CHECK(says("/no/such/model.gguf"));
    }

    TEST_CASE("a call without what it needs is refused by name")
    {
        CHECK(hearth_open(nullptr, "cpu", -1) == nullptr);
        CHECK(says("path NULL"));
        CHECK(hearth_open(tests::shipped_model().string().c_str(), "cpu", -2) == nullptr);
        CHECK(says("-2 bytes"));
        CHECK(hearth_open(tests::shipped_model().string().c_str(), "no such device", -1) == nullptr);
        CHECK(says("no such device"));
        CHECK(hearth_tokenize(nullptr, "x", nullptr, 0) == -1);
        CHECK(says("model NULL"));
        const Model model = open_shipped();
        CHECK(hearth_tokenize(model.get(), nullptr, nullptr, 0) == -1);
        CHECK(says("text NULL"));
        CHECK(hearth_tokenize(model.get(), "x", nullptr, 1) == -1);
        CHECK(says("tokens NULL"));
        CHECK(hearth_generate(model.get(), nullptr, nullptr, 1, append, nullptr) == -1);
        CHECK(says("prompt NULL"));
        CHECK(hearth_generate(model.get(), "x", nullptr, 1, nullptr, nullptr) == -1);
        CHECK(says("piece NULL"));
        CHECK(hearth_generate(model.get(), "x", nullptr, -2, append, nullptr) == -1);
        CHECK(says("-2 tokens"));
        hearth_close(nullptr);
    }
}
