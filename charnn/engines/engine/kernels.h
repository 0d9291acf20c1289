/* Products for AVX2, AVX-512 VNNI and NEON; engine.c includes them if CHARNN_KERNELS is defined.
 *
 * The int8 products sum integers, so all kernels give the same bits. Strides are multiples of 32
 * numbers; rows are aligned to 32 bytes. */
enum { PLAIN, AVX2, VNNI, NEON };

/* Chooses the kernel for all later steps; returns 0 if the processor lacks it. */
int charnn_use(int kernel);

/* Not for GCC on Windows, which does not align vectors on the stack to 32 bytes. */
#if defined(__x86_64__) && defined(__GNUC__) && (!defined(_WIN32) || defined(__clang__))
#define CHARNN_X86
#include <immintrin.h>

#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_VNNI __attribute__((target("avx2,avx512f,avx512vl,avx512vnni")))

static int has_vnni(void) {
#ifdef CHARNN_EMULATE_VNNI /* tests the kernel on a processor without VNNI */
    return 1;
#else
    return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#endif
}

static int kernel_is_there(int kernel) {
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return kernel == PLAIN || (kernel == AVX2 && avx2) || (kernel == VNNI && avx2 && has_vnni());
}

/* Returns the sums of four vectors of eight integers. */
TARGET_AVX2 static inline __m128i sums_of_four(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

/* Adds 32 products of x and w to `total`. The instruction needs one unsigned operand: it gets |x|,
 * and w with the sign of x. A sum of two products is at most 2 * 127 * 127, which fits 16 bits. */
TARGET_AVX2 static inline __m256i add_int8(__m256i total, __m256i size, __m256i x,
                                           const int8_t *w) {
    __m256i signed_w = _mm256_sign_epi8(_mm256_load_si256((const __m256i *)(const void *)w), x);
    __m256i pairs = _mm256_maddubs_epi16(size, signed_w);
    return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

TARGET_AVX2 static void int8_avx2(const charnn_matrix *m, const int8_t *x, int32_t streams,
                                  int32_t *out) {
    const size_t stride = (size_t)m->stride;
    int32_t r, b, d;
    for (r = 0; r < m->rows; r += 4) {
        const int8_t *w = (const int8_t *)m->weights + (size_t)r * stride;
        const int32_t more = m->rows - r < 4 ? m->rows - r : 4;
        const int8_t *w1 = more > 1 ? w + stride : w, *w2 = more > 2 ? w + 2 * stride : w;
        const int8_t *w3 = more > 3 ? w + 3 * stride : w;
        for (b = 0; b < streams; b++) {
            const int8_t *from = x + (size_t)b * stride;
            __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
            int32_t four[4], i;
            for (d = 0; d < m->stride; d += 32) {
                __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(from + d));
                __m256i size = _mm256_abs_epi8(v);
                s0 = add_int8(s0, size, v, w + d);
                s1 = add_int8(s1, size, v, w1 + d);
                s2 = add_int8(s2, size, v, w2 + d);
                s3 = add_int8(s3, size, v, w3 + d);
            }
            _mm_storeu_si128((__m128i *)(void *)four, sums_of_four(s0, s1, s2, s3));
            for (i = 0; i < more; i++) out[b * m->rows + r + i] = four[i];
        }
    }
}

#ifdef CHARNN_EMULATE_VNNI
#undef TARGET_VNNI
#define TARGET_VNNI TARGET_AVX2
TARGET_AVX2 static inline __m256i add_products(__m256i total, __m256i u, __m256i w) {
    __m256i low = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(u)),
                                    _mm256_cvtepi8_epi16(_mm256_castsi256_si128(w)));
    __m256i high = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(u, 1)),
                                     _mm256_cvtepi8_epi16(_mm256_extracti128_si256(w, 1)));
    return _mm256_add_epi32(total, _mm256_add_epi32(low, high));
}
#else
TARGET_VNNI static inline __m256i add_products(__m256i total, __m256i u, __m256i w) {
    return _mm256_dpbusd_epi32(total, u, w);
}
#endif

/* The instruction needs an unsigned operand: it gets x + 128, and 128 times the row's sum is
 * subtracted from the result. */
TARGET_VNNI static void int8_vnni(const charnn_matrix *m, const int8_t *x, int32_t streams,
                                  int32_t *out) {
    const size_t stride = (size_t)m->stride;
    const __m256i flip = _mm256_set1_epi8((char)-128);
    int32_t r, b, d;
    for (r = 0; r < m->rows; r += 4) {
        const int8_t *w = (const int8_t *)m->weights + (size_t)r * stride;
        const int32_t more = m->rows - r < 4 ? m->rows - r : 4;
        const int8_t *w1 = more > 1 ? w + stride : w, *w2 = more > 2 ? w + 2 * stride : w;
        const int8_t *w3 = more > 3 ? w + 3 * stride : w;
        for (b = 0; b < streams; b++) {
            const int8_t *from = x + (size_t)b * stride;
            __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
            int32_t four[4], i;
            for (d = 0; d < m->stride; d += 32) {
                __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(from + d));
                v = _mm256_xor_si256(v, flip);
                s0 = add_products(s0, v, _mm256_load_si256((const __m256i *)(const void *)(w + d)));
                s1 = add_products(s1, v, _mm256_load_si256((const __m256i *)(const void *)(w1 + d)));
                s2 = add_products(s2, v, _mm256_load_si256((const __m256i *)(const void *)(w2 + d)));
                s3 = add_products(s3, v, _mm256_load_si256((const __m256i *)(const void *)(w3 + d)));
            }
            _mm_storeu_si128((__m128i *)(void *)four, sums_of_four(s0, s1, s2, s3));
            for (i = 0; i < more; i++)
                out[b * m->rows + r + i] = four[i] - 128 * m->row_sum[r + i];
        }
    }
}

/* Returns the sums of four vectors of eight numbers, added in the order of `join`. */
TARGET_AVX2 static inline __m128 joined(__m256 a, __m256 b, __m256 c, __m256 d) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

#define LOAD(p) _mm256_load_ps(p)
#define LOADU(p) _mm256_loadu_ps(p)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)

/* Multiplies eight rows by one stream's x: eight sums keep two multiply-add units busy. */
TARGET_AVX2 static inline void eight_rows(const float *w, size_t stride, const float *x,
                                          float *out) {
    __m256 s[8];
    size_t d, i;
    for (i = 0; i < 8; i++) s[i] = _mm256_setzero_ps();
    for (d = 0; d < stride; d += 8) {
        __m256 v = LOADU(x + d);
        s[0] = FMA(LOAD(w + d), v, s[0]);
        s[1] = FMA(LOAD(w + d + stride), v, s[1]);
        s[2] = FMA(LOAD(w + d + 2 * stride), v, s[2]);
        s[3] = FMA(LOAD(w + d + 3 * stride), v, s[3]);
        s[4] = FMA(LOAD(w + d + 4 * stride), v, s[4]);
        s[5] = FMA(LOAD(w + d + 5 * stride), v, s[5]);
        s[6] = FMA(LOAD(w + d + 6 * stride), v, s[6]);
        s[7] = FMA(LOAD(w + d + 7 * stride), v, s[7]);
    }
    _mm_storeu_ps(out, joined(s[0], s[1], s[2], s[3]));
    _mm_storeu_ps(out + 4, joined(s[4], s[5], s[6], s[7]));
}

/* Multiplies four rows by three streams' x: each loaded number is used three or four times. */
TARGET_AVX2 static inline void four_by_three(const float *w, size_t stride, const float *x,
                                             float *out, size_t rows) {
    __m256 s[12];
    size_t d, i;
    for (i = 0; i < 12; i++) s[i] = _mm256_setzero_ps();
    for (d = 0; d < stride; d += 8) {
        __m256 a = LOADU(x + d), b = LOADU(x + d + stride), c = LOADU(x + d + 2 * stride), v;
        v = LOAD(w + d);
        s[0] = FMA(v, a, s[0]), s[1] = FMA(v, b, s[1]), s[2] = FMA(v, c, s[2]);
        v = LOAD(w + d + stride);
        s[3] = FMA(v, a, s[3]), s[4] = FMA(v, b, s[4]), s[5] = FMA(v, c, s[5]);
        v = LOAD(w + d + 2 * stride);
        s[6] = FMA(v, a, s[6]), s[7] = FMA(v, b, s[7]), s[8] = FMA(v, c, s[8]);
        v = LOAD(w + d + 3 * stride);
        s[9] = FMA(v, a, s[9]), s[10] = FMA(v, b, s[10]), s[11] = FMA(v, c, s[11]);
    }
    for (i = 0; i < 3; i++)
        _mm_storeu_ps(out + i * rows, joined(s[i], s[i + 3], s[i + 6], s[i + 9]));
}

TARGET_AVX2 static inline float one_row(const float *w, size_t stride, const float *x) {
    __m256 s = _mm256_setzero_ps();
    size_t d;
    for (d = 0; d < stride; d += 8) s = FMA(LOAD(w + d), LOADU(x + d), s);
    return _mm_cvtss_f32(joined(s, s, s, s));
}

/* The outer loop is over rows, so that the current ones stay in the cache for all streams. */
TARGET_AVX2 static void float_avx2(const charnn_matrix *m, const float *x, int32_t streams,
                                   float *out) {
    const size_t stride = (size_t)m->stride, rows = (size_t)m->rows, all = (size_t)streams;
    const float *w = m->weights;
    size_t r = 0, b;
    for (; r + 8 <= rows; r += 8, w += 8 * stride) {
        for (b = 0; b + 3 <= all; b += 3) {
            four_by_three(w, stride, x + b * stride, out + b * rows + r, rows);
            four_by_three(w + 4 * stride, stride, x + b * stride, out + b * rows + r + 4, rows);
        }
        for (; b < all; b++) eight_rows(w, stride, x + b * stride, out + b * rows + r);
    }
    for (; r < rows; r++, w += stride)
        for (b = 0; b < all; b++) out[b * rows + r] = one_row(w, stride, x + b * stride);
}

#elif defined(__aarch64__) && defined(__GNUC__)
#define CHARNN_NEON
#include <arm_neon.h>

static int kernel_is_there(int kernel) { return kernel == PLAIN || kernel == NEON; }

static void int8_neon(const charnn_matrix *m, const int8_t *x, int32_t streams, int32_t *out) {
    const size_t stride = (size_t)m->stride;
    int32_t r, b, d;
    for (b = 0; b < streams; b++)
        for (r = 0; r < m->rows; r++) {
            const int8_t *w = (const int8_t *)m->weights + (size_t)r * stride;
            const int8_t *from = x + (size_t)b * stride;
            int32x4_t s0 = vdupq_n_s32(0), s1 = s0;
            for (d = 0; d < m->stride; d += 16) {
                int8x16_t a = vld1q_s8(w + d), v = vld1q_s8(from + d);
                s0 = vpadalq_s16(s0, vmull_s8(vget_low_s8(a), vget_low_s8(v)));
                s1 = vpadalq_s16(s1, vmull_high_s8(a, v));
            }
            out[b * m->rows + r] = vaddvq_s32(vaddq_s32(s0, s1));
        }
}

static void float_neon(const charnn_matrix *m, const float *x, int32_t streams, float *out) {
    const size_t stride = (size_t)m->stride;
    int32_t r, b, d;
    for (b = 0; b < streams; b++)
        for (r = 0; r < m->rows; r++) {
            const float *w = (const float *)m->weights + (size_t)r * stride;
            const float *from = x + (size_t)b * stride;
            float32x4_t s[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
            int32_t i;
            for (d = 0; d < m->stride; d += 16)
                for (i = 0; i < 4; i++)
                    s[i] = vfmaq_f32(s[i], vld1q_f32(w + d + 4 * i), vld1q_f32(from + d + 4 * i));
            out[b * m->rows + r] = vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
        }
}

#else
static int kernel_is_there(int kernel) { return kernel == PLAIN; }
#endif
