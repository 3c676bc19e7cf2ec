/* The door for programs in C, and for languages that call C: a model is opened, continues texts, and is closed.
 *
 * Who may depend on it: any program; every 0.1.x keeps what stands here. It includes nothing of Hearth's own, and
 * inside Hearth only engine/hearth_c.cpp includes it. Programs in C++ have more from engine/engine.h and
 * engine/batcher.h, which are Hearth's own doors and change with it.
 *
 * Threads: a model may be used by any thread, but by one at a time: a call on a model that another call is using, from
 * a callback as well, is refused with an error. hearth_error() speaks of the calling thread alone.
 *
 * Errors: a function that fails returns NULL or -1, and hearth_error() says in one sentence what is wrong and what to
 * do. Nothing is printed, and no C++ exception comes out. A mistake in Hearth itself, and a model's file that is made
 * shorter while it is open, end the program.
 *
 *     static int show(const char* text, size_t length, void* user)
 *     {
 *         fwrite(text, 1, length, user);
 *         return 0;
 *     }
 *     ...
 *     hearth_model* model = hearth_open("model.gguf", "auto", -1);
 *     if (!model || hearth_generate(model, "Once upon a time", NULL, 100, show, stdout) < 0)
 *         fprintf(stderr, "%s\n", hearth_error());
 *     hearth_close(model);
 */
#ifndef HEARTH_H
#define HEARTH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hearth_model hearth_model;

/* What was wrong with the last call that failed in this thread, as one sentence in UTF-8 without an end of line; ""
 * where none did. Valid until the next call that fails. */
const char* hearth_error(void);

/* Opens a GGUF file. device: "auto" (or NULL) is the best GPU, or the CPU where there is none; "cpu"; an index or a
 * part of a name as `hearth devices` lists them. budget: bytes of the GPU's memory that may be used, -1 for what is
 * free, less a margin. To be closed with hearth_close. */
hearth_model* hearth_open(const char* path, const char* device, int64_t budget);

/* NULL is allowed. */
void hearth_close(hearth_model* model);

/* The ids of a text, as hearth_generate feeds them to the model: its mark of the beginning first, if it has one. Writes
 * no more than `room` of them and returns how many there are, so that room 0 (tokens may be NULL then) counts. */
int64_t hearth_tokenize(hearth_model* model, const char* text, int32_t* tokens, size_t room);

/* How the next token is chosen. */
typedef struct hearth_sampling {
    float temperature; /* 0: always the most probable one, and the rest is not asked */
    uint32_t top_k;    /* of the k most probable ones; 0: of all */
    float top_p;       /* of the fewest whose probabilities reach p */
    float min_p;       /* of those with at least this share of the best one's probability */
    uint64_t seed;     /* same model, device, text and seed: same answer */
} hearth_sampling;

/* Those of `hearth run`: 0.8, 40, 0.95, 0.05 and seed 0. */
hearth_sampling hearth_default_sampling(void);

/* Gets whole characters of UTF-8 as they come: `length` bytes, and a 0 behind them. 0: go on; else that was enough. It
 * must return: no longjmp, and no exception of C++. */
typedef int (*hearth_piece)(const char* text, size_t length, void* user);

/* Continues a text, in a new conversation each time, until the model ends it, its context is full, `count` tokens are
 * written (-1: no limit) or `piece` says so; `user` is handed to `piece`. sampling NULL: the default. The text is taken
 * as it is: a model of conversations wants the frame of its template around it. Returns the number of tokens. */
int64_t hearth_generate(hearth_model* model, const char* prompt, const hearth_sampling* sampling, int64_t count,
                        hearth_piece piece, void* user);

#ifdef __cplusplus
}
#endif

#endif
