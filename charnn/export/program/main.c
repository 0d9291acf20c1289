/* A program that writes text with the model in model.c. See README.md. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine.h"
#include "model.h"

/* All memory that the model needs, beside its constants. */
static float state[STATE_NUMBERS], logits[VOCAB_SIZE];
static double weights[VOCAB_SIZE];
static union {
    char bytes[SCRATCH_BYTES];
    double aligned;
} scratch;

/* The state of sfc32, the generator of Chris Doty-Humphrey's PractRand. */
static uint32_t generator[4];

static uint32_t next_bits(void) {
    uint32_t *g = generator, t = g[0] + g[1] + g[3];
    g[3]++;
    g[0] = g[1] ^ (g[1] >> 9);
    g[1] = g[2] + (g[2] << 3);
    g[2] = ((g[2] << 21) | (g[2] >> 11)) + t;
    return t;
}

static void seed_generator(uint32_t seed) {
    int i;
    generator[0] = 0;
    generator[1] = seed;
    generator[2] = 0; /* the index of the sample: always 0 here */
    generator[3] = 1;
    for (i = 0; i < 16; i++) next_bits();
}

static void read_token(int32_t token) {
    charnn_step(&model, 1, &token, state, state, logits, scratch.bytes);
}

static void show_token(int32_t token) {
    fwrite(token_bytes + token_starts[token], 1, token_starts[token + 1] - token_starts[token],
           stdout);
}

/* Feeds a prompt to the model; returns 0 if a part of it has no symbol. */
static int read_prompt(const char *prompt) {
    while (*prompt) {
        int32_t token;
        size_t length = 0;
        for (token = 0; token < VOCAB_SIZE; token++) {
            length = token_starts[token + 1] - token_starts[token];
            if (length && strncmp(prompt, (const char *)token_bytes + token_starts[token], length) == 0) break;
        }
        if (token == VOCAB_SIZE) {
            fprintf(stderr, "error: --prompt: the model has no symbol for the start of \"%.20s\"; leave it out\n", prompt);
            return 0;
        }
        read_token(token);
        prompt += length;
    }
    return 1;
}

static void about(void) {
    printf("weights      %10lu bytes, constant\n", (unsigned long)WEIGHT_BYTES);
    if (model.ngrams) printf("n-grams      %10lu bytes, constant\n", (unsigned long)NGRAM_BYTES);
    printf("state        %10lu bytes\n", (unsigned long)sizeof state);
    printf("memory       %10lu bytes, the state included\n",
           (unsigned long)(sizeof state + sizeof logits + sizeof weights + sizeof scratch));
    printf("work         %10lu multiply-adds per token\n", (unsigned long)MULTIPLY_ADDS);
}

static void help(const char *name) {
    printf("%s [--prompt TEXT] [-n TOKENS] [--temperature X] [--seed N] [--about]\n\n"
           "Writes text. Defaults: no prompt, 500 tokens, temperature 0.8, a seed from the clock,\n"
           "which is printed to stderr. --about prints the memory and the work per token.\n",
           name);
}

static int wrong(const char *option, const char *value, const char *wanted) {
    fprintf(stderr, "error: %s %s: expected %s\n", option, value, wanted);
    return 2;
}

int main(int count, char **words) {
    static const int32_t start[] = START_TOKENS;
    const char *prompt = "";
    unsigned long tokens = 500, seed = (unsigned long)time(NULL) & 0xFFFFFFFFul, i;
    double temperature = 0.8;
    int seeded = 0, at;

    assert(charnn_scratch_bytes(&model, 1) <= sizeof scratch.bytes);
    assert(charnn_state_size(&model) * sizeof *state == sizeof state);
    for (at = 1; at < count; at++) {
        const char *option = words[at], *value = at + 1 < count ? words[at + 1] : "";
        char *end;
        if (!strcmp(option, "--help") || !strcmp(option, "-h")) {
            help(words[0]);
            return 0;
        }
        if (!strcmp(option, "--about")) {
            about();
            return 0;
        }
        if (++at >= count) {
            fprintf(stderr, "error: %s: unknown, or its value is missing; try --help\n", option);
            return 2;
        }
        errno = 0;
        if (!strcmp(option, "--prompt")) {
            prompt = value;
        } else if (!strcmp(option, "-n")) {
            tokens = strtoul(value, &end, 10);
            if (*value < '0' || *value > '9' || *end || errno)
                return wrong(option, value, "a whole number");
        } else if (!strcmp(option, "--seed")) {
            seed = strtoul(value, &end, 10);
            seeded = 1;
            if (*value < '0' || *value > '9' || *end || errno || seed > 0xFFFFFFFFul)
                return wrong(option, value, "a whole number below 2^32");
        } else if (!strcmp(option, "--temperature")) {
            temperature = strtod(value, &end);
            if (!*value || *end || !(temperature >= 0.0 && temperature <= 1000.0))
                return wrong(option, value, "a number from 0 to 1000");
        } else {
            fprintf(stderr, "error: %s: unknown; try --help\n", option);
            return 2;
        }
    }
    if (*prompt && !TAKES_PROMPTS) {
        fprintf(stderr, "error: --prompt: only charnn can encode a prompt for this model; leave it "
                        "out\n");
        return 1;
    }
    charnn_begin(&model, state);
    if (!read_prompt(prompt)) return 1;
    for (i = 0; !*prompt && i < sizeof start / sizeof *start; i++) read_token(start[i]);
    if (!seeded) fprintf(stderr, "seed %lu\n", seed);
    seed_generator((uint32_t)seed);
    fputs(prompt, stdout);
    for (i = 0; i < tokens; i++) {
        double uniform = next_bits() / 4294967296.0;
        int32_t token =
            charnn_choose(logits, VOCAB_SIZE, temperature, uniform, weights);
        if (token < 0) {
            fprintf(stderr, "error: the logits are not finite: export another model\n");
            return 1;
        }
        show_token(token);
        if (fflush(stdout)) return 0; /* the reader closed the pipe */
        read_token(token);
    }
    return 0;
}
