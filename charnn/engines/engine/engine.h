/* A trained network of charnn, one token at a time: any cell, any depth, one stream or many.
 *
 * All memory is the caller's. A matrix holds float, or int8 with one scale a row; the latter gives
 * the same bits on every machine (docs/int8.md), the former is as fast as the machine reads it.
 * Letters: B streams, V symbols, E features of a symbol, H units, L layers, P parts of a state
 * (h, and c for LSTM), G gates.
 */
#ifndef CHARNN_ENGINE_H
#define CHARNN_ENGINE_H

#include <stddef.h>
#include <stdint.h>

enum { CHARNN_RNN, CHARNN_GRU, CHARNN_LSTM };

/* rows x columns; `stride` numbers lie between the starts of two rows, zeros after the columns. */
typedef struct {
    int32_t rows, columns, stride;
    const void *weights;      /* int8 or float */
    const float *scale;       /* int8: what a row is worth; NULL for float */
    const int32_t *row_sum;   /* int8: sums of the rows, for some kernels; may be NULL */
    const float *bias;        /* may be NULL */
} charnn_matrix;

typedef struct {
    charnn_matrix input, recurrent; /* G*H x D, with bias; G*H x H, without */
    const float *bias_hn;           /* GRU alone: (H,) */
    int32_t residual;               /* whether what it reads is added to what it gives */
} charnn_layer;

/* Whole numbers of 1, 2 or 4 bytes. */
typedef struct {
    const void *at;
    int32_t bytes;
} charnn_numbers;

/* The n-grams of up to `order` symbols, as docs/file-format.md has them: N nodes but the first, and
 * C contexts. What comes next is as likely as the network says, to the power of `network_power`,
 * times what they say to theirs. */
typedef struct {
    int32_t order, contexts;
    double network_power, power;
    charnn_numbers symbols, counts; /* (N,) */
    charnn_numbers dropped;         /* (C,) */
    const int32_t *first;           /* (C + 1,): the first child of each context */
    const double *discounts;        /* (order, 3): taken from a count of 1, 2, 3 and more */
} charnn_ngrams;

typedef struct {
    int32_t cell, vocab_size, embedding_size, hidden_size, num_layers;
    const float *embedding; /* (V, E), each row less its mean */
    const float *table;     /* (V, G*H): what layer 0 makes of each symbol; NULL: worked out anew */
    const charnn_layer *layers;
    charnn_matrix head;
    const charnn_ngrams *ngrams; /* NULL for none */
} charnn_model;

/* Numbers in the state of a stream, S: h and c of each layer (L, P, H), then, where there are
 * n-grams, the nodes of the latest 0 to order - 1 symbols, -1 for none. A text begins with zeros
 * and the node 0. */
size_t charnn_state_size(const charnn_model *model);
void charnn_begin(const charnn_model *model, float *state);

/* Bytes of working memory for `streams` streams. */
size_t charnn_scratch_bytes(const charnn_model *model, int32_t streams);

/* Reads one token in each stream: tokens (B,) and state (B, S), which may be the same before
 * and after, to logits (B, V), which may be NULL. `scratch` begins at a multiple of 8 bytes. */
void charnn_step(const charnn_model *model, int32_t streams, const int32_t *tokens,
                 const float *before, float *after, float *logits, void *scratch);

/* Works out layer 0's part of a step for every symbol: table (V, G*H), for charnn_model. */
void charnn_make_table(const charnn_model *model, float *table, void *scratch);

/* Chooses a token by a number from 0 to 1, as docs/sampling.md says; -1 if a logit is not finite.
 * `weights` is room for V numbers. */
int32_t charnn_choose(const float *logits, int32_t vocab_size, double temperature, double uniform,
                      double *weights);

/* How surprising a token is, in nats, at temperature 1. */
double charnn_surprisal(const float *logits, int32_t vocab_size, int32_t token);

#endif
