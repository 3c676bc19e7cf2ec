/* Continues a text, in C: hello_c MODEL PROMPT */
#include "engine/hearth.h"

#include <stdio.h>

static int show(const char* text, size_t length, void* user)
{
    (void)user;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return 0; /* go on */
}

int main(int argc, char** argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: hello_c MODEL PROMPT\n");
        return 2;
    }
    hearth_model* model = hearth_open(argv[1], "auto", -1);
    if (!model) {
        fprintf(stderr, "hello_c: %s\n", hearth_error());
        return 1;
    }
    hearth_sampling greedy = hearth_default_sampling();
    greedy.temperature = 0;
    printf("%s", argv[2]);
    int64_t written = hearth_generate(model, argv[2], &greedy, 64, show, NULL);
    printf("\n");
    if (written < 0) fprintf(stderr, "hello_c: %s\n", hearth_error());
    hearth_close(model);
    return written < 0;
}
