// hearth tokenize: ids and pieces of a text, without BOS.
#include "tools/cli.h"

namespace hearth::tools {

Command add_tokenize(CLI::App& app)
{
    struct Options {
        std::string model;
        TextOptions text;
        bool json = false;
    };
    auto o = std::make_shared<Options>();
    app.add_option("MODEL", o->model, "the model, a GGUF file")->required()->check(not_empty());
    add_text_options(app, o->text);
    app.add_flag("--json", o->json, "ids, pieces and the text that they give back, as JSON");
    return [o] {
        const Gguf file(o->model);
        const Tokenizer tokenizer(file);
        const std::vector<Token> ids = tokenizer.encode(read_text(o->text));
        if (o->json) {
            nlohmann::json json = {{"ids", ids}, {"pieces", nlohmann::json::array()}, {"text", tokenizer.decode(ids)}};
            for (const Token id : ids) json["pieces"].push_back(tokenizer.piece(id));
            print(dump(json));
            return;
        }
        std::string out;
        for (const Token id : ids) out += fmt::format("{:7} {}\n", id, tokenizer.piece(id));
        print(out);
    };
}

}    // namespace hearth::tools
