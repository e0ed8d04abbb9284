/* The quadratic form y[t,o] = x[t]' A[o] x[t] on a CPU, in float32, without the products in memory.

   Pairs of channels are taken in circles: with D = C/2 rounded down, every unordered pair is (i, i+d mod C) for one i in
   0..C-1 and one d in 0..D (d = 0: the squares; for even C the pairs of d = D would come twice, so only i < C/2 has them).
   With x written twice in a row, xx = [x x], the D+1 partners of channel i are xx[i..i+D]: contiguous, and as many for
   every i. So the form is, for every i, a matrix product of the partners with a (D+1) x O slice of the weights, scaled by
   x[i]; half of the C^2 products, none of them stored:

       y[t,o]  = sum_i x[t,i] (sum_d xx[t,i+d] W[i,d,o]),   W[i,d,o] = A[o,i,j] + A[o,j,i]  (A[o,i,i] for d = 0)
       P[t,i,d] = sum_o g[t,o] W[i,d,o]
       gx[t,i] = sum of P[t,i,d] xx[t,i+d] over d, plus P[t,i',d] x[t,i'] where i'+d = i
       gA[o,i,j] = gA[o,j,i] = sum_t g[t,o] x[t,i] x[t,j]

   All three products go through one micro-kernel, `multiply`: ROWS x WIDE vectors of sums in registers. Each thread owns
   its results and every sum has a fixed order: the same bits for the same input, whatever the number of threads. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* V: floats in a vector. ROWS x WIDE sums, WIDE weights and a factor fill the registers: 16 of them, 32 with AVX-512. */
#if defined(V)
#elif defined(__AVX512F__)
#define V 16
#define ROWS 12
#elif defined(__AVX__)
#define V 8
#define ROWS 6
#else
#define V 4
#define ROWS 6
#endif
#define WIDE 2              /* vectors in a row of sums */
#define PANEL (V * WIDE)    /* columns of a panel of packed weights */
#define POSITIONS 48        /* of a tile in the form and in gx: their channels stay in the second-level cache */
#define LENGTH 128          /* positions of a tile in gA */

typedef float vec __attribute__((vector_size(4 * V), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))

/* A map of vectors: element (n, p, c) at data + n*image + p*position + c*channel, float32 or bfloat16. */
typedef struct {
    void *data;
    int64_t image, position, channel, positions; /* positions: of an image */
    int32_t bfloat16;
} Map;

INLINE float get(const Map *m, int64_t at) {
    if (!m->bfloat16) return ((const float *)m->data)[at];
    union { uint32_t bits; float value; } u = {(uint32_t)((const uint16_t *)m->data)[at] << 16};
    return u.value;
}

INLINE void put(const Map *m, int64_t at, float value) {
    if (!m->bfloat16) {
        ((float *)m->data)[at] = value;
        return;
    }
    union { float value; uint32_t bits; } u = {value};
    uint32_t rounded = u.bits + 0x7fff + ((u.bits >> 16) & 1); /* to the nearest, ties to even */
    ((uint16_t *)m->data)[at] = value != value ? 0x7fc0 : (uint16_t)(rounded >> 16);
}

/* Copy `count` positions from `first` on into rows of `stride` floats, `channels` in each; or the rows out to the map. */
INLINE void copy(const Map *m, int64_t first, int count, int channels, float *rows, int stride, const int out) {
#define MOVE(r, c)                                                                 \
    do {                                                                           \
        const int64_t at = base + (r) * m->position + (c) * channel;               \
        if (out) put(m, at, row[(r) * stride + (c)]);                              \
        else row[(r) * stride + (c)] = get(m, at);                                 \
    } while (0)
    for (int t = 0; t < count;) {
        int64_t n = (first + t) / m->positions, p = (first + t) % m->positions;
        int run = m->positions - p < count - t ? (int)(m->positions - p) : count - t;
        int64_t base = n * m->image + p * m->position, channel = m->channel;
        float *row = rows + (int64_t)t * stride;
        if (channel == 1) /* along the memory of the map, either way */
            for (int r = 0; r < run; r++)
                for (int c = 0; c < channels; c++) MOVE(r, c);
        else
            for (int c = 0; c < channels; c++)
                for (int r = 0; r < run; r++) MOVE(r, c);
        t += run;
    }
#undef MOVE
}

static void load(const Map *m, int64_t first, int count, int channels, float *rows, int stride) {
    copy(m, first, count, channels, rows, stride, 0);
}

static void store(const Map *m, int64_t first, int count, int channels, float *rows, int stride) {
    copy(m, first, count, channels, rows, stride, 1);
}

/* Load positions and write their channels twice in a row; what lies behind is left as it is. */
static void load_twice(const Map *x, int64_t first, int count, int channels, float *xx, int stride) {
    load(x, first, count, channels, xx, stride);
    for (int t = 0; t < count; t++) memcpy(xx + t * stride + channels, xx + t * stride, channels * sizeof(float));
}

/* sums[r][w] = sum_k a[r*row + k*step] * b[k*PANEL + w*V ..]: the only place where time is spent. */
INLINE void multiply(const int rows, const int wide, int length, const float *a, int64_t row, int64_t step, const float *b,
                     vec sums[ROWS][WIDE]) {
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++) sums[r][w] = (vec){0};
#pragma GCC unroll 2
    for (int k = 0; k < length; k++) {
        vec b0 = LOAD(b + k * PANEL), b1 = wide > 1 ? LOAD(b + k * PANEL + V) : b0;
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const float value = a[r * row + k * step];
            sums[r][0] += value * b0;
            if (wide > 1) sums[r][1] += value * b1;
        }
    }
}

/* Calls BLOCK(rows, wide, ...) with constants for sizes, so that its sums stay in registers. */
#define CASE(n, BLOCK, ...)                    \
    case n:                                    \
        if (wide > 1) BLOCK(n, 2, __VA_ARGS__); \
        else BLOCK(n, 1, __VA_ARGS__);         \
        break;
#define SIX(BLOCK, ...)                                                                        \
    CASE(1, BLOCK, __VA_ARGS__)                                                                \
    CASE(2, BLOCK, __VA_ARGS__)                                                                \
    CASE(3, BLOCK, __VA_ARGS__)                                                                \
    CASE(4, BLOCK, __VA_ARGS__)                                                                \
    CASE(5, BLOCK, __VA_ARGS__)                                                                \
    CASE(6, BLOCK, __VA_ARGS__)
#if ROWS > 6
#define SIZES(BLOCK, ...)                                                                      \
    SIX(BLOCK, __VA_ARGS__)                                                                    \
    CASE(7, BLOCK, __VA_ARGS__)                                                                \
    CASE(8, BLOCK, __VA_ARGS__)                                                                \
    CASE(9, BLOCK, __VA_ARGS__)                                                                \
    CASE(10, BLOCK, __VA_ARGS__)                                                               \
    CASE(11, BLOCK, __VA_ARGS__)                                                               \
    CASE(12, BLOCK, __VA_ARGS__)
#else
#define SIZES SIX
#endif
#define WITH_SIZES(BLOCK, ...)       \
    switch (rows) {                  \
        SIZES(BLOCK, __VA_ARGS__)    \
    }

INLINE float sum_of(vec v) {
    float s = 0;
    for (int k = 0; k < V; k++) s += v[k];
    return s;
}

/* The form's block: y[r] += x[r,i] (partners of i by their weights); xi points at x[0,i]. */
INLINE void form_block(const int rows, const int wide, int partners, const float *xi, int64_t width, const float *w, float *y,
                       int64_t columns) {
    vec sums[ROWS][WIDE];
    multiply(rows, wide, partners, xi, width, 1, w, sums);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) {
            float *to = y + r * columns + v * V;
            STORE(to, LOAD(to) + xi[r * width] * sums[r][v]);
        }
}
static void form_rows(int rows, int wide, int partners, const float *xi, int64_t width, const float *w, float *y,
                      int64_t columns) {
    WITH_SIZES(form_block, partners, xi, width, w, y, columns)
}

/* gx's block: P = g by weights, then P x[i] to the partners, and P times the partners into `own`, which is summed up for channel
   i when all its partners are through. xi points at x[0,i]; the panel's first partner is `from` channels on. */
INLINE void pairs_block(const int rows, const int wide, int outputs, const float *g, const float *w, const float *xi, float *gi,
                        int64_t width, int from, vec *own) {
    vec P[ROWS][WIDE];
    multiply(rows, wide, outputs, g, outputs, 1, w, P);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) {
            const int64_t at = r * width + from + v * V;
            STORE(gi + at, LOAD(gi + at) + xi[r * width] * P[r][v]);
            own[r] += P[r][v] * LOAD(xi + at);
        }
}
static void pairs_rows(int rows, int wide, int outputs, const float *g, const float *w, const float *xi, float *gi,
                       int64_t width, int from, vec *own) {
    WITH_SIZES(pairs_block, outputs, g, w, xi, gi, width, from, own)
}

/* gx's block of squares: gx += 2 (g by weights) x. */
INLINE void squares_block(const int rows, const int wide, int outputs, const float *g, const float *w, const float *x, float *gx,
                          int64_t width) {
    vec P[ROWS][WIDE];
    multiply(rows, wide, outputs, g, outputs, 1, w, P);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) {
            float *to = gx + r * width + v * V;
            STORE(to, LOAD(to) + 2 * P[r][v] * LOAD(x + r * width + v * V));
        }
}
static void squares_rows(int rows, int wide, int outputs, const float *g, const float *w, const float *x, float *gx,
                         int64_t width) {
    WITH_SIZES(squares_block, outputs, g, w, x, gx, width)
}

/* gA's block: sums over positions of partners times the gradients that are scaled by x[t,i]. */
INLINE void weight_block(const int rows, const int wide, int positions, const float *xx, int64_t width, const float *scaled,
                         float *S) {
    vec sums[ROWS][WIDE];
    multiply(rows, wide, positions, xx, 1, width, scaled, sums);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) {
            float *to = S + r * PANEL + v * V;
            STORE(to, LOAD(to) + sums[r][v]);
        }
}
static void weight_rows(int rows, int wide, int positions, const float *xx, int64_t width, const float *scaled, float *S) {
    WITH_SIZES(weight_block, positions, xx, width, scaled, S)
}

INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }
/* Rows of group k of n rows, cut into as few groups of at most ROWS as will do, all nearly equal. */
INLINE int cut(int n, int groups, int k) { return (int)((int64_t)n * k / groups); }
INLINE int wide_of(int columns_left) { return columns_left > V ? 2 : 1; }
static int has_pair(int channels, int i, int d) { return !(channels % 2 == 0 && d && d == channels / 2 && i >= channels / 2); }

/* One thread's lack of memory ends the work of all, behind the barrier that follows. */
#define SHARE_FAILURE(failed)                  \
    {                                          \
        _Pragma("omp atomic write") failed = 1; \
    }

static float *aligned(int64_t floats) { return aligned_alloc(64, (size_t)((floats * 4 + 63) / 64 * 64)); }

/* Scratch memory in floats that a caller provides: the packed weights. */
int64_t ditcnn_packed_size(int channels, int outputs) {
    int64_t partners = channels / 2 + 1, forward = (int64_t)ceil_div(outputs, PANEL) * channels * partners * PANEL;
    int64_t back = (int64_t)channels * ceil_div(channels / 2, PANEL) * outputs * PANEL;
    int64_t squares = (int64_t)ceil_div(channels, PANEL) * outputs * PANEL;
    return forward > back + squares ? forward : back + squares;
}

/* W[panel][i][d][lane]: a panel of outputs beside each other. */
static void pack_outputs(const float *A, int C, int O, float *W, int threads) {
    const int D = C / 2;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (int panel = 0; panel < ceil_div(O, PANEL); panel++)
        for (int i = 0; i < C; i++) {
            float *to = W + ((int64_t)panel * C + i) * (D + 1) * PANEL;
            memset(to, 0, (size_t)(D + 1) * PANEL * sizeof(float));
            for (int lane = 0; lane < PANEL && panel * PANEL + lane < O; lane++) {
                const float *a = A + (int64_t)(panel * PANEL + lane) * C * C;
                to[lane] = a[(int64_t)i * C + i];
                for (int d = 1; d <= D; d++) {
                    int j = i + d < C ? i + d : i + d - C;
                    if (has_pair(C, i, d)) to[d * PANEL + lane] = a[(int64_t)i * C + j] + a[(int64_t)j * C + i];
                }
            }
        }
}

/* W[i][panel][o][lane]: a panel of partners d = 1..D beside each other; then the squares, [panel of i][o][lane]. */
static void pack_partners(const float *A, int C, int O, float *W, int threads) {
    const int D = C / 2, panels = ceil_div(D, PANEL);
    float *squares = W + (int64_t)C * panels * O * PANEL;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < C; i++)
        for (int o = 0; o < O; o++) {
            const float *a = A + (int64_t)o * C * C;
            for (int panel = 0; panel < panels; panel++) {
                float *to = W + (((int64_t)i * panels + panel) * O + o) * PANEL;
                for (int lane = 0; lane < PANEL; lane++) {
                    int d = 1 + panel * PANEL + lane, j = i + d < C ? i + d : i + d - C;
                    to[lane] = d <= D && has_pair(C, i, d) ? a[(int64_t)i * C + j] + a[(int64_t)j * C + i] : 0;
                }
            }
            squares[((int64_t)(i / PANEL) * O + o) * PANEL + i % PANEL] = a[(int64_t)i * C + i];
        }
    for (int i = C; i < ceil_div(C, PANEL) * PANEL; i++)
        for (int o = 0; o < O; o++) squares[((int64_t)(i / PANEL) * O + o) * PANEL + i % PANEL] = 0;
}

/* y = x'Ax. Returns 0, or 1 when memory is short. */
int ditcnn_form(const Map *x, const float *A, const Map *y, int64_t T, int C, int O, float *W, int threads) {
    const int D = C / 2, width = 2 * C, panels = ceil_div(O, PANEL), columns = panels * PANEL;
    const int64_t tiles = (T + POSITIONS - 1) / POSITIONS;
    int failed = 0;
    pack_outputs(A, C, O, W, threads);
#pragma omp parallel num_threads(threads)
    {
        float *xx = aligned((int64_t)POSITIONS * width), *rows = aligned((int64_t)POSITIONS * columns);
        if (!xx || !rows) SHARE_FAILURE(failed)
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; tile++) {
            if (failed) continue;
            const int64_t first = tile * POSITIONS;
            const int count = T - first < POSITIONS ? (int)(T - first) : POSITIONS, groups = ceil_div(count, ROWS);
            load_twice(x, first, count, C, xx, width);
            memset(rows, 0, (size_t)count * columns * sizeof(float));
            for (int panel = 0; panel < panels; panel++) {
                const int wide = wide_of(O - panel * PANEL);
                for (int i = 0; i < C; i++) {
                    const float *w = W + ((int64_t)panel * C + i) * (D + 1) * PANEL;
                    for (int k = 0; k < groups; k++) {
                        const int t = cut(count, groups, k), n = cut(count, groups, k + 1) - t;
                        form_rows(n, wide, D + 1, xx + t * width + i, width, w, rows + t * columns + panel * PANEL, columns);
                    }
                }
            }
            store(y, first, count, O, rows, columns);
        }
        free(xx);
        free(rows);
    }
    return failed;
}

/* gx from g. */
int ditcnn_grad_x(const Map *g, const Map *x, const float *A, const Map *gx, int64_t T, int C, int O, float *W, int threads) {
    const int D = C / 2, width = 2 * C + 2 * PANEL, partners = ceil_div(D, PANEL);
    const int64_t tiles = (T + POSITIONS - 1) / POSITIONS;
    const float *squares = W + (int64_t)C * partners * O * PANEL;
    int failed = 0;
    pack_partners(A, C, O, W, threads);
#pragma omp parallel num_threads(threads)
    {
        float *xx = aligned((int64_t)POSITIONS * width), *rows = aligned((int64_t)POSITIONS * width);
        float *gg = aligned((int64_t)POSITIONS * O);
        if (!xx || !rows || !gg) SHARE_FAILURE(failed)
#pragma omp barrier
        if (xx) memset(xx, 0, (size_t)POSITIONS * width * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; tile++) {
            if (failed) continue;
            const int64_t first = tile * POSITIONS;
            const int count = T - first < POSITIONS ? (int)(T - first) : POSITIONS, groups = ceil_div(count, ROWS);
            load_twice(x, first, count, C, xx, width);
            load(g, first, count, O, gg, O);
            memset(rows, 0, (size_t)count * width * sizeof(float));
            for (int i = 0; i < C; i++)
                for (int k = 0; k < groups; k++) {
                    const int t = cut(count, groups, k), n = cut(count, groups, k + 1) - t;
                    const float *w = W + (int64_t)i * partners * O * PANEL, *xi = xx + (int64_t)t * width + i;
                    float *to = rows + (int64_t)t * width + i;
                    vec own[ROWS];
                    for (int r = 0; r < n; r++) own[r] = (vec){0};
                    for (int panel = 0; panel < partners; panel++, w += O * PANEL) {
                        const int wide = wide_of(D - panel * PANEL);
                        pairs_rows(n, wide, O, gg + (int64_t)t * O, w, xi, to, width, 1 + panel * PANEL, own);
                    }
                    for (int r = 0; r < n; r++) to[r * width] += sum_of(own[r]);
                }
            for (int t = 0; t < count; t++) /* the second turn of the circle onto the first */
                for (int c = 0; c < C; c++) rows[t * width + c] += rows[t * width + C + c];
            for (int from = 0; from < C; from += PANEL) {
                const int wide = wide_of(C - from);
                for (int k = 0; k < groups; k++) {
                    const int t = cut(count, groups, k), n = cut(count, groups, k + 1) - t;
                    const int64_t at = (int64_t)t * width + from;
                    squares_rows(n, wide, O, gg + (int64_t)t * O, squares + (int64_t)from * O, xx + at, rows + at, width);
                }
            }
            store(gx, first, count, C, rows, width);
        }
        free(xx);
        free(rows);
        free(gg);
    }
    return failed;
}

/* gA from g; S is scratch memory like W, for the sums. */
int ditcnn_grad_weight(const Map *g, const Map *x, float *gA, int64_t T, int C, int O, float *S, int threads) {
    const int D = C / 2, width = 2 * C, panels = ceil_div(O, PANEL), groups = ceil_div(D + 1, ROWS);
    const int64_t tiles = (T + LENGTH - 1) / LENGTH;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *xx = aligned((int64_t)LENGTH * width), *gg = aligned((int64_t)LENGTH * panels * PANEL);
        float *scaled = aligned((int64_t)LENGTH * PANEL);
        if (!xx || !gg || !scaled) SHARE_FAILURE(failed)
#pragma omp barrier
        if (gg) memset(gg, 0, (size_t)LENGTH * panels * PANEL * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t at = 0; at < (int64_t)panels * C; at++)
            memset(S + at * (D + 1) * PANEL, 0, (size_t)(D + 1) * PANEL * sizeof(float));
        for (int64_t tile = 0; tile < tiles && !failed; tile++) {
            const int64_t first = tile * LENGTH;
            const int count = T - first < LENGTH ? (int)(T - first) : LENGTH;
            load_twice(x, first, count, C, xx, width);
            load(g, first, count, O, gg, panels * PANEL);
#pragma omp for schedule(static) nowait
            for (int64_t task = 0; task < (int64_t)panels * C; task++) { /* each thread has the same tasks in every tile */
                const int panel = (int)(task / C), i = (int)(task % C), wide = wide_of(O - panel * PANEL);
                for (int t = 0; t < count; t++) {
                    const float xi = xx[t * width + i], *from = gg + (t * panels + panel) * PANEL;
                    for (int w = 0; w < wide; w++) STORE(scaled + t * PANEL + w * V, xi * LOAD(from + w * V));
                }
                for (int k = 0; k < groups; k++) {
                    const int d = cut(D + 1, groups, k), n = cut(D + 1, groups, k + 1) - d;
                    weight_rows(n, wide, count, xx + i + d, width, scaled, S + (task * (D + 1) + d) * PANEL);
                }
            }
        }
        free(xx);
        free(gg);
        free(scaled);
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int o = 0; o < O; o++)
        for (int i = 0; i < C; i++)
            for (int d = 0; d <= D; d++)
                if (has_pair(C, i, d)) {
                    const int j = i + d < C ? i + d : i + d - C;
                    const float sum = S[(((int64_t)(o / PANEL) * C + i) * (D + 1) + d) * PANEL + o % PANEL];
                    gA[((int64_t)o * C + i) * C + j] = gA[((int64_t)o * C + j) * C + i] = sum;
                }
    return failed;
}
