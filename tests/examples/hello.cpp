// Continues a text, in C++: hello_cpp MODEL PROMPT
#include "engine/engine.h"

#include <algorithm>
#include <iostream>

int main(int argc, char** argv)
try {
    if (argc != 3) {
        std::cerr << "usage: hello_cpp MODEL PROMPT\n";
        return 2;
    }
    hearth::EngineOptions options;
    options.model = argv[1];
    hearth::Engine engine(options);
    hearth::Session session = engine.session();
    hearth::Sampler greedy({.temperature = 0});

    const hearth::Tokenizer& tokenizer = engine.tokenizer();
    std::vector<hearth::Token> tokens = tokenizer.encode_prompt(argv[2]);
    hearth::Decoder decoder(tokenizer, true);    // tokens become whole characters
    std::cout << argv[2];
    for (int written = 0; written < 64; ++written) {
        const hearth::Token next = *session.next(tokens, greedy);
        if (std::ranges::find(tokenizer.ends(), next) != tokenizer.ends().end()) break;
        std::cout << decoder.push(next) << std::flush;
        tokens = {next};    // the session knows what came before
    }
    std::cout << decoder.finish() << std::endl;
} catch (const std::exception& e) {
    std::cerr << "hello_cpp: " << e.what() << "\n";
    return 1;
}
