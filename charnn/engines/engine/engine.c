/* See engine.h. If CHARNN_KERNELS is defined, the faster products of kernels.h are added; without
 * them, this file needs only the standard library. */
#include "engine.h"

#include <float.h>
#include <math.h>

#if FLT_EVAL_METHOD != 0
#error "floats must be computed as floats here: on 32-bit x86, compile with -msse2 -mfpmath=sse"
#endif

/* No fused multiply-add: a product and a sum round separately, as in the other engines. Without
 * "no-trapping-math" and "no-math-errno", loops with comparisons and roots are not vectorised. */
#if defined(__clang__) || !defined(__GNUC__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off", "no-trapping-math", "no-math-errno")
#endif

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

static const int32_t GATES[] = {1, 3, 4}, PARTS[] = {1, 1, 2};
static const float NORM_EPSILON = 1e-5f, LARGEST = 127.0f, PER_STEP = 0.00787401572f;

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even. */
static const float ROUNDING = 12582912.0f;
static const double LEAST = 1.0 / 1099511627776.0; /* 2^-40: n-gram probabilities are at least it */

typedef union {
    float number;
    int32_t bits;
} float_bits;

/* Returns 1 / (1 + exp(-a)). exp(-a) is 2^(n + f): a power of two, times a polynomial in f that is
 * fitted on [-0.5, 0.5]. */
INLINE float logistic(float a) {
    float_bits power;
    float y, n, f, p;
    a = a < 30.0f ? a : 30.0f;
    a = a > -30.0f ? a : -30.0f;
    y = a * -1.44269502f;
    n = (y + ROUNDING) - ROUNDING;
    f = y - n;
    p = 0.00132647273f;
    p = p * f + 0.00967151299f;
    p = p * f + 0.0555073358f;
    p = p * f + 0.240222424f;
    p = p * f + 0.693147004f;
    p = p * f + 1.0f;
    power.bits = ((int32_t)n + 127) * (1 << 23);
    return 1.0f / (1.0f + p * power.number);
}

INLINE float tanh_of(float a) {
    float s = logistic(a + a);
    return (s + s) - 1.0f;
}

/* Joins eight running sums in pairs, in the order in which vector instructions do. */
INLINE float join(const float *s) {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

INLINE float sum(const float *x, int32_t n) {
    float s[8] = {0};
    int32_t i, j;
    for (i = 0; i + 8 <= n; i += 8)
        for (j = 0; j < 8; j++) s[j] += x[i + j];
    for (j = 0; i + j < n; j++) s[j] += x[i + j];
    return join(s);
}

INLINE float sum_of_squares(const float *x, int32_t n) {
    float s[8] = {0};
    int32_t i, j;
    for (i = 0; i + 8 <= n; i += 8)
        for (j = 0; j < 8; j++) s[j] += x[i + j] * x[i + j];
    for (j = 0; i + j < n; j++) s[j] += x[i + j] * x[i + j];
    return join(s);
}

INLINE float largest(const float *x, int32_t n) {
    float most = 0.0f;
    int32_t i;
    for (i = 0; i < n; i++) {
        float size = fabsf(x[i]);
        most = size > most ? size : most;
    }
    return most;
}

INLINE void center(float *x, int32_t n) {
    float mean = sum(x, n) * (1.0f / (float)n);
    int32_t i;
    for (i = 0; i < n; i++) x[i] -= mean;
}

/* Returns 1/std of an x of mean 0. */
INLINE float norm_factor(const float *x, int32_t n) {
    return 1.0f / sqrtf(sum_of_squares(x, n) * (1.0f / (float)n) + NORM_EPSILON);
}

/* Rounds x to steps of bound/127, clipped to [-127, 127] steps; NaN becomes 127. */
INLINE void quantise(const float *x, int32_t n, int32_t stride, float bound, int8_t *q) {
    float steps = bound > 0.0f ? LARGEST / bound : 0.0f;
    int32_t i;
    for (i = 0; i < n; i++) {
        float step = x[i] * steps;
        step = step < LARGEST ? step : LARGEST;
        step = step > -LARGEST ? step : -LARGEST;
        q[i] = (int8_t)(int32_t)((step + ROUNDING) - ROUNDING);
    }
    for (; i < stride; i++) q[i] = 0;
}

typedef void (*int8_product)(const charnn_matrix *m, const int8_t *x, int32_t streams, int32_t *out);
typedef void (*float_product)(const charnn_matrix *m, const float *x, int32_t streams, float *out);

static void int8_plain(const charnn_matrix *m, const int8_t *x, int32_t streams, int32_t *out) {
    int32_t b, r, d;
    for (b = 0; b < streams; b++, x += m->stride)
        for (r = 0; r < m->rows; r++) {
            const int8_t *w = (const int8_t *)m->weights + (size_t)r * (size_t)m->stride;
            int32_t total = 0;
            for (d = 0; d < m->columns; d++) total += w[d] * x[d];
            *out++ = total;
        }
}

static void float_plain(const charnn_matrix *m, const float *x, int32_t streams, float *out) {
    int32_t b, r;
    for (b = 0; b < streams; b++, x += m->stride)
        for (r = 0; r < m->rows; r++) {
            const float *w = (const float *)m->weights + (size_t)r * (size_t)m->stride;
            float s[8] = {0}, all[8]; /* constant indices keep s in registers */
            int32_t d, j;
            for (d = 0; d + 8 <= m->columns; d += 8)
                for (j = 0; j < 8; j++) s[j] += w[d + j] * x[d + j];
            for (j = 0; j < 8; j++) all[j] = s[j];
            for (j = 0; d + j < m->columns; j++) all[j] += w[d + j] * x[d + j];
            *out++ = join(all);
        }
}

#ifdef CHARNN_KERNELS
#include "kernels.h"
#endif

/* Arrays in scratch memory: for all B streams, except `counted`, which serves one at a time. */
typedef struct {
    float *x, *inputs, *recurrent, *factor;
    void *operand;   /* the vectors of a product: int8 or float, padded to the matrix's stride */
    double *counted; /* the n-grams' probabilities (V,) */
} scratch_arrays;

static int32_t greater(int32_t a, int32_t b) { return a > b ? a : b; }

static int32_t widest_stride(const charnn_model *model) {
    int32_t stride = model->head.stride, layer;
    for (layer = 0; layer < model->num_layers; layer++) {
        stride = greater(stride, model->layers[layer].input.stride);
        stride = greater(stride, model->layers[layer].recurrent.stride);
    }
    return stride;
}

static size_t to_line(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t charnn_scratch_bytes(const charnn_model *model, int32_t streams) {
    size_t b = (size_t)streams, h = (size_t)model->hidden_size;
    size_t rows = (size_t)GATES[model->cell] * h;
    size_t width = (size_t)greater(model->embedding_size, model->hidden_size);
    return to_line(b * width * 4) + 2 * to_line(b * rows * 4) + to_line(b * 4) +
           to_line(b * (size_t)widest_stride(model) * 4) +
           (model->ngrams ? (size_t)model->vocab_size * 8 : 0);
}

static scratch_arrays divide(const charnn_model *model, int32_t streams, void *scratch) {
    size_t b = (size_t)streams, h = (size_t)model->hidden_size;
    size_t rows = (size_t)GATES[model->cell] * h;
    size_t width = (size_t)greater(model->embedding_size, model->hidden_size);
    char *next = scratch;
    scratch_arrays s;
    s.x = (float *)(void *)next;
    s.inputs = (float *)(void *)(next += to_line(b * width * 4));
    s.recurrent = (float *)(void *)(next += to_line(b * rows * 4));
    s.factor = (float *)(void *)(next += to_line(b * rows * 4));
    s.operand = next += to_line(b * 4);
    s.counted = (double *)(void *)(next + to_line(b * (size_t)widest_stride(model) * 4));
    return s;
}

/* Writes x as the operand of stream b: int8 steps, or a padded copy for a float matrix. Returns the
 * size of a step (1 for float). `bound` is the largest absolute value of x; 0: it is searched. */
INLINE float ready(const charnn_matrix *m, const float *x, float bound, int32_t b, void *operand) {
    size_t at = (size_t)b * (size_t)m->stride;
    int32_t i;
    if (m->scale) {
        if (bound == 0.0f) bound = largest(x, m->columns);
        quantise(x, m->columns, m->stride, bound, (int8_t *)operand + at);
        return bound * PER_STEP;
    }
    for (i = 0; i < m->columns; i++) ((float *)operand)[at + (size_t)i] = x[i];
    for (; i < m->stride; i++) ((float *)operand)[at + (size_t)i] = 0.0f;
    return 1.0f;
}

/* out (B, rows) = matrix * operand * factor (B,) + bias. */
INLINE void multiply(const charnn_matrix *m, const void *operand, const float *factor,
                     int32_t streams, float *out, int8_product product, float_product product_f) {
    int32_t b, r;
    if (m->scale) {
        product(m, operand, streams, (int32_t *)(void *)out);
        for (b = 0; b < streams; b++, out += m->rows) {
            const int32_t *total = (const int32_t *)(const void *)out;
            for (r = 0; r < m->rows; r++) {
                float value = (float)total[r] * (m->scale[r] * factor[b]);
                out[r] = m->bias ? m->bias[r] + value : value;
            }
        }
    } else {
        product_f(m, operand, streams, out);
        for (b = 0; b < streams; b++, out += m->rows)
            for (r = 0; r < m->rows; r++) {
                float value = out[r] * factor[b];
                out[r] = m->bias ? m->bias[r] + value : value;
            }
    }
}

/* The equations of the cells for one stream: a is W x + b, u is U h, both by gates. */
INLINE void rnn(int32_t n, const float *restrict a, const float *restrict u, float *restrict h) {
    int32_t j;
    for (j = 0; j < n; j++) h[j] = tanh_of(a[j] + u[j]);
}

INLINE void gru(int32_t n, const float *restrict a, const float *restrict u,
                const float *restrict bias_hn, float *restrict h) {
    int32_t j;
    for (j = 0; j < n; j++) {
        float r = logistic(a[j] + u[j]), z = logistic(a[n + j] + u[n + j]);
        float c = tanh_of(a[2 * n + j] + r * (u[2 * n + j] + bias_hn[j]));
        h[j] = c + z * (h[j] - c);
    }
}

INLINE void lstm(int32_t n, const float *restrict a, const float *restrict u, float *restrict h,
                 float *restrict c) {
    int32_t j;
    for (j = 0; j < n; j++) {
        float i = logistic(a[j] + u[j]), f = logistic(a[n + j] + u[n + j]);
        float g = tanh_of(a[2 * n + j] + u[2 * n + j]);
        float o = logistic(a[3 * n + j] + u[3 * n + j]);
        c[j] = f * c[j] + i * g;
        h[j] = o * tanh_of(c[j]);
    }
}

/* Layer 0's input of a token: W norm(x) + b, for an x of mean 0. */
INLINE void read_symbol(const charnn_model *model, int32_t token, float *inputs,
                        scratch_arrays s, int8_product product, float_product product_f) {
    const charnn_matrix *m = &model->layers[0].input;
    const float *x = model->embedding + (size_t)token * (size_t)model->embedding_size;
    float factor = ready(m, x, 0.0f, 0, s.operand) * norm_factor(x, m->columns);
    multiply(m, s.operand, &factor, 1, inputs, product, product_f);
}

size_t charnn_state_size(const charnn_model *model) {
    size_t part = (size_t)(PARTS[model->cell] * model->hidden_size);
    return (size_t)model->num_layers * part + (model->ngrams ? (size_t)model->ngrams->order : 0);
}

void charnn_begin(const charnn_model *model, float *state) {
    size_t size = charnn_state_size(model), i;
    size_t nodes = model->ngrams ? (size_t)model->ngrams->order : 0;
    for (i = 0; i < size; i++) state[i] = i + nodes > size ? -1.0f : 0.0f;
}

static int64_t number(charnn_numbers numbers, int32_t i) {
    if (numbers.bytes == 1) return ((const uint8_t *)numbers.at)[i];
    if (numbers.bytes == 2) return ((const uint16_t *)numbers.at)[i];
    return ((const uint32_t *)numbers.at)[i];
}

/* Moves the nodes (K,) of a stream to their children for `token`; -1 for contexts that the tree
 * lacks. A node outside the tree, from a damaged state, counts as -1. */
static void follow(const charnn_ngrams *g, const float *before, int32_t token, float *after) {
    int32_t k;
    for (k = g->order - 1; k > 0; k--) {
        float node = before[k - 1];
        int32_t low = 0, high = 0, end = 0;
        if (node >= 0.0f && node < (float)g->contexts) {
            low = g->first[(int32_t)node];
            high = end = g->first[(int32_t)node + 1];
        }
        while (low < high) {
            int32_t middle = low + (high - low) / 2;
            if (number(g->symbols, middle - 1) < token) low = middle + 1;
            else high = middle;
        }
        after[k] = -1.0f;
        if (low < end && low < g->contexts && number(g->symbols, low - 1) == token)
            after[k] = (float)low;
    }
    after[0] = 0.0f;
}

/* Fills p (V,) with the interpolated Kneser-Ney probabilities at nodes (K,). Each context, longest
 * first, gives its children their discounted shares and leaves the rest to the shorter contexts. */
static void count(const charnn_model *model, const float *nodes, double *p) {
    const charnn_ngrams *g = model->ngrams;
    double left = 1.0;
    int32_t k, v;
    for (v = 0; v < model->vocab_size; v++) p[v] = 0.0;
    for (k = g->order - 1; k >= 0; k--) {
        const double *taken = g->discounts + 3 * k;
        int32_t node = (int32_t)nodes[k], child;
        double total, rest = 0.0;
        if (node < 0) continue;
        total = (double)number(g->dropped, node);
        for (child = g->first[node]; child < g->first[node + 1]; child++)
            total += (double)number(g->counts, child - 1);
        if (!(total > 0.0)) continue;
        for (child = g->first[node]; child < g->first[node + 1]; child++) {
            int64_t size = number(g->counts, child - 1);
            double less = size ? taken[size < 3 ? size - 1 : 2] : 0.0;
            p[number(g->symbols, child - 1)] += left * (((double)size - less) / total);
            rest += less;
        }
        left *= (rest + (double)number(g->dropped, node)) / total;
    }
    for (v = 0; v < model->vocab_size; v++) p[v] += left / model->vocab_size;
}

/* Mixes the probabilities `counted` (V,) into the network's logits (V,). */
static void mix(const charnn_model *model, const double *counted, float *logits) {
    const double own = model->ngrams->network_weight, theirs = model->ngrams->ngram_weight;
    int32_t v;
    for (v = 0; v < model->vocab_size; v++) {
        double p = counted[v] > LEAST ? counted[v] : LEAST;
        logits[v] = (float)(own * (double)logits[v] + theirs * log(p));
    }
}

INLINE void step(const charnn_model *model, int32_t streams, const int32_t *tokens,
                 const float *before, float *after, float *logits, void *scratch,
                 int8_product product, float_product product_f) {
    const int32_t n = model->hidden_size, e = model->embedding_size;
    const int32_t rows = GATES[model->cell] * n, part = PARTS[model->cell] * n;
    const int32_t width = greater(e, n), stream_state = (int32_t)charnn_state_size(model);
    scratch_arrays s = divide(model, streams, scratch);
    int32_t layer, b, i;

    for (b = 0; b < streams; b++)
        for (i = 0; i < e; i++)
            s.x[b * width + i] = model->embedding[(size_t)tokens[b] * (size_t)e + (size_t)i];
    for (layer = 0; layer < model->num_layers; layer++) {
        const charnn_layer *l = &model->layers[layer];
        for (b = 0; layer == 0 && b < streams; b++)
            if (model->table)
                for (i = 0; i < rows; i++)
                    s.inputs[b * rows + i] =
                        model->table[(size_t)tokens[b] * (size_t)rows + (size_t)i];
            else
                read_symbol(model, tokens[b], s.inputs + b * rows, s, product, product_f);
        if (layer) {
            for (b = 0; b < streams; b++) {
                float *x = s.x + b * width;
                center(x, n);
                s.factor[b] = ready(&l->input, x, 0.0f, b, s.operand) * norm_factor(x, n);
            }
            multiply(&l->input, s.operand, s.factor, streams, s.inputs, product, product_f);
        }
        for (b = 0; b < streams; b++)
            s.factor[b] = ready(&l->recurrent, before + b * stream_state + layer * part, 1.0f, b,
                                s.operand);
        multiply(&l->recurrent, s.operand, s.factor, streams, s.recurrent, product, product_f);
        for (b = 0; b < streams; b++) {
            const float *a = s.inputs + b * rows, *u = s.recurrent + b * rows;
            const float *old = before + b * stream_state + layer * part;
            float *h = after + b * stream_state + layer * part, *x = s.x + b * width;
            for (i = 0; i < part; i++) h[i] = old[i];
            if (model->cell == CHARNN_LSTM) lstm(n, a, u, h, h + n);
            else if (model->cell == CHARNN_GRU) gru(n, a, u, l->bias_hn, h);
            else rnn(n, a, u, h);
            for (i = 0; i < n; i++) x[i] = l->residual ? x[i] + h[i] : h[i];
        }
    }
    if (model->ngrams)
        for (b = 0; b < streams; b++) {
            const int32_t nodes = b * stream_state + model->num_layers * part;
            follow(model->ngrams, before + nodes, tokens[b], after + nodes);
        }
    if (!logits) return;
    for (b = 0; b < streams; b++) {
        float *x = s.x + b * width;
        center(x, n);
        s.factor[b] = ready(&model->head, x, 0.0f, b, s.operand) * norm_factor(x, n);
    }
    multiply(&model->head, s.operand, s.factor, streams, logits, product, product_f);
    for (b = 0; model->ngrams && b < streams; b++) {
        count(model, after + b * stream_state + model->num_layers * part, s.counted);
        mix(model, s.counted, logits + b * model->vocab_size);
    }
}

#ifdef CHARNN_X86
__attribute__((target("avx2,fma"))) static void step_avx2(
    const charnn_model *model, int32_t streams, const int32_t *tokens, const float *before,
    float *after, float *logits, void *scratch) {
    step(model, streams, tokens, before, after, logits, scratch, int8_avx2, float_avx2);
}

__attribute__((target("avx2,fma"))) static void step_vnni(
    const charnn_model *model, int32_t streams, const int32_t *tokens, const float *before,
    float *after, float *logits, void *scratch) {
    step(model, streams, tokens, before, after, logits, scratch, int8_vnni, float_avx2);
}
#endif

#ifdef CHARNN_KERNELS
static int chosen = PLAIN;

int charnn_use(int kernel) {
    if (!kernel_is_there(kernel)) return 0;
    chosen = kernel;
    return 1;
}
#endif

void charnn_step(const charnn_model *model, int32_t streams, const int32_t *tokens,
                 const float *before, float *after, float *logits, void *scratch) {
#ifdef CHARNN_X86
    if (chosen == AVX2) {
        step_avx2(model, streams, tokens, before, after, logits, scratch);
        return;
    }
    if (chosen == VNNI) {
        step_vnni(model, streams, tokens, before, after, logits, scratch);
        return;
    }
#endif
#ifdef CHARNN_NEON
    if (chosen == NEON) {
        step(model, streams, tokens, before, after, logits, scratch, int8_neon, float_neon);
        return;
    }
#endif
    step(model, streams, tokens, before, after, logits, scratch, int8_plain, float_plain);
}

void charnn_make_table(const charnn_model *model, float *table, void *scratch) {
    const size_t rows = (size_t)(GATES[model->cell] * model->hidden_size);
    const scratch_arrays s = divide(model, 1, scratch);
    int32_t v;
    for (v = 0; v < model->vocab_size; v++)
        read_symbol(model, v, table + (size_t)v * rows, s, int8_plain, float_plain);
}

int32_t charnn_choose(const float *logits, int32_t vocab_size, double temperature, double uniform,
                      double *weights) {
    float most = logits[0];
    double total = 0.0, running = 0.0, top;
    int32_t v, best = 0;
    for (v = 0; v < vocab_size; v++) {
        if (!isfinite(logits[v])) return -1;
        if (logits[v] > most) {
            most = logits[v];
            best = v;
        }
    }
    if (!(temperature > 0.0)) return best;
    if (temperature < 1e-100) temperature = 1e-100;
    top = (double)most / temperature;
    for (v = 0; v < vocab_size; v++) {
        weights[v] = exp((double)logits[v] / temperature - top);
        total += weights[v];
    }
    for (v = 0; v < vocab_size; v++) {
        running += weights[v];
        if (running > uniform * total) return v;
    }
    return best;
}

double charnn_surprisal(const float *logits, int32_t vocab_size, int32_t token) {
    double most = (double)logits[0], total = 0.0;
    int32_t v;
    for (v = 1; v < vocab_size; v++)
        if ((double)logits[v] > most) most = (double)logits[v];
    for (v = 0; v < vocab_size; v++) total += exp((double)logits[v] - most);
    return log(total) - ((double)logits[token] - most);
}
