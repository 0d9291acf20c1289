/* A trained network of charnn that reads one token at a time, in one stream or several.
 *
 * The caller owns all memory. A matrix is float, or int8 with a scale for each row; int8 gives the
 * same bits on every machine (docs/int8.md).
 * Letters: B streams, V symbols, E features of a symbol, H units, L layers, P parts of a state
 * (h, and c for LSTM), G gates.
 */
#ifndef CHARNN_ENGINE_H
#define CHARNN_ENGINE_H

#include <stddef.h>
#include <stdint.h>

enum { CHARNN_RNN, CHARNN_GRU, CHARNN_LSTM };

/* A matrix, rows x columns; each row is padded with zeros to `stride` numbers. */
typedef struct {
    int32_t rows, columns, stride;
    const void *weights;      /* int8 or float */
    const float *scale;       /* int8: one for each row; NULL for float */
    const int32_t *row_sum;   /* int8: sums of the rows, for kernels.h; may be NULL */
    const float *bias;        /* may be NULL */
} charnn_matrix;

typedef struct {
    charnn_matrix input, recurrent; /* G*H x D, with bias; G*H x H, without */
    const float *bias_hn;           /* GRU only: (H,) */
    int32_t residual;               /* whether the input is added to the output */
} charnn_layer;

/* An array of unsigned integers of 1, 2 or 4 bytes. */
typedef struct {
    const void *at;
    int32_t bytes;
} charnn_numbers;

/* The n-grams of up to `order` symbols, as docs/file-format.md stores them: N nodes besides the
 * root, and C contexts. The logits of the mixture are network_weight times the network's plus
 * ngram_weight times log p of the n-grams. */
typedef struct {
    int32_t order, contexts;
    double network_weight, ngram_weight;
    charnn_numbers symbols, counts; /* (N,) */
    charnn_numbers dropped;         /* (C,) */
    const int32_t *first;           /* (C + 1,): the first child of each context */
    const double *discounts;        /* (order, 3): subtracted from counts of 1, 2, and 3 or more */
} charnn_ngrams;

typedef struct {
    int32_t cell, vocab_size, embedding_size, hidden_size, num_layers;
    const float *embedding; /* (V, E), each row less its mean */
    const float *table;     /* (V, G*H): layer 0's input of each token; NULL: computed each time */
    const charnn_layer *layers;
    charnn_matrix head;
    const charnn_ngrams *ngrams; /* NULL for none */
} charnn_model;

/* Returns S, the size of one stream's state in numbers: h and c of each layer (L, P, H), then, with
 * n-grams, the nodes of the latest 0 to order - 1 symbols, -1 for contexts that the tree lacks. */
size_t charnn_state_size(const charnn_model *model);

/* Writes the state (S,) at the start of a text: zeros, and the nodes 0, -1, ... */
void charnn_begin(const charnn_model *model, float *state);

/* Returns the bytes of scratch memory that `streams` streams need. */
size_t charnn_scratch_bytes(const charnn_model *model, int32_t streams);

/* Reads one token in each stream: tokens (B,), states (B, S), logits (B, V). `before` and `after`
 * may be the same, `logits` may be NULL. `scratch` is aligned to 8 bytes. */
void charnn_step(const charnn_model *model, int32_t streams, const int32_t *tokens,
                 const float *before, float *after, float *logits, void *scratch);

/* Computes layer 0's input of every token: table (V, G*H) of charnn_model. */
void charnn_make_table(const charnn_model *model, float *table, void *scratch);

/* Chooses a token by `uniform`, a number in [0, 1) (docs/sampling.md); returns -1 if a logit is not
 * finite. `weights` is scratch memory for V numbers. */
int32_t charnn_choose(const float *logits, int32_t vocab_size, double temperature, double uniform,
                      double *weights);

/* Returns the surprisal of a token at temperature 1, in nats. */
double charnn_surprisal(const float *logits, int32_t vocab_size, int32_t token);

#endif
