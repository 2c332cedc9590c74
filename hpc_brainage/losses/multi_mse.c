/* Several reconstructions of one target: their errors and gradients in one pass over memory.

   Each task is one scan and at most COLUMNS of its columns. The target's columns are read once and are still
   in the cache for the next reconstruction. A reconstruction of weight 0 is not read at all, and its
   gradient is 0. A gradient may be written over its reconstruction.

   Sums are float within a task and double over tasks, in an order that does not depend on how many threads
   there are. Compiled with `#pragma omp simd`, whose reductions the compiler may vectorise; without
   -ffast-math, which would change how the whole process treats small numbers. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS 8192
#define LAYER_COLUMNS 512  /* of a task of `layer_mse`: with bias and sums they stay in the first cache */
#define SERIAL 32768  /* elements for which waking other threads takes longer than the work */

static double squared(const float *recon, const float *target, float *gradient, float weight, int64_t n)
{
    float error = 0;
    if (!gradient) {
#pragma omp simd reduction(+ : error)
        for (int64_t j = 0; j < n; j++) {
            float difference = recon[j] - target[j];
            error += difference * difference;
        }
        return error;
    }
    weight *= 2;
#pragma omp simd reduction(+ : error)
    for (int64_t j = 0; j < n; j++) {
        float difference = recon[j] - target[j];
        error += difference * difference;
        gradient[j] = weight * difference;
    }
    return error;
}

static double absolute(const float *recon, const float *target, float *gradient, float weight, int64_t n)
{
    float error = 0;
    if (!gradient) {
#pragma omp simd reduction(+ : error)
        for (int64_t j = 0; j < n; j++)
            error += __builtin_fabsf(recon[j] - target[j]);
        return error;
    }
#pragma omp simd reduction(+ : error)
    for (int64_t j = 0; j < n; j++) {
        float difference = recon[j] - target[j];
        float size = __builtin_fabsf(difference);
        error += size;
        gradient[j] = size > 0 ? __builtin_copysignf(weight, difference) : weight * difference;
    }
    return error;
}

/* recons, gradients: `count` matrices (scans, columns) each, the columns dense, told by `places`: addresses
   of the recons, how many elements apart their rows are, then both of the gradients, which may be absent;
   weights (count, scans) dense. Out: errors (count, scans) dense, the unweighted sums over columns, and
   their weighted sum, the loss. Gives 0, or 1 if there is no memory. */
int multi_mse(int64_t count, int64_t scans, int64_t columns, int is_squared, int has_gradients,
              const int64_t *places, const float *target, int64_t target_stride, const float *weights,
              float *errors, float *loss)
{
    int64_t pieces = (columns + COLUMNS - 1) / COLUMNS, rows = count * scans;
    const int64_t *recon_strides = places + count, *gradients = places + 2 * count;
    const int64_t *gradient_strides = places + 3 * count;
    double *partial = malloc((rows * pieces + 1) * sizeof(double));
    if (!partial)
        return 1;
#pragma omp parallel for schedule(static) if (rows * columns > SERIAL)
    for (int64_t task = 0; task < scans * pieces; task++) {
        int64_t scan = task / pieces, piece = task % pieces, first = piece * COLUMNS;
        int64_t n = columns - first < COLUMNS ? columns - first : COLUMNS;
        const float *goal = target + scan * target_stride + first;
        for (int64_t k = 0; k < count; k++) {
            const float *recon = (const float *)places[k] + scan * recon_strides[k] + first;
            float *gradient = NULL, weight = weights[k * scans + scan];
            double error = 0;
            if (has_gradients)
                gradient = (float *)gradients[k] + scan * gradient_strides[k] + first;
            if (weight != 0)
                error = is_squared ? squared(recon, goal, gradient, weight, n)
                                   : absolute(recon, goal, gradient, weight, n);
            else if (gradient)
                memset(gradient, 0, n * sizeof(float));
            partial[(k * scans + scan) * pieces + piece] = error;
        }
    }
    double total = 0;
    for (int64_t row = 0; row < rows; row++) {
        double error = 0;
        for (int64_t piece = 0; piece < pieces; piece++)
            error += partial[row * pieces + piece];
        errors[row] = error;
        if (weights[row] != 0)
            total += weights[row] * error;
    }
    *loss = total;
    free(partial);
    return 0;
}

/* As `squared` and `absolute`, of a linear layer's reconstruction that lacks its bias: it becomes its own
   gradient, which is added to `sums` too. */
static inline double of_layer(float *recon, const float *bias, const float *target, float *sums,
                              float weight, int64_t n, int is_squared)
{
    float error = 0;
    if (is_squared) {
        weight *= 2;
#pragma omp simd reduction(+ : error)
        for (int64_t j = 0; j < n; j++) {
            float difference = recon[j] + bias[j] - target[j];
            error += difference * difference;
            recon[j] = weight * difference;
            sums[j] += weight * difference;
        }
        return error;
    }
#pragma omp simd reduction(+ : error)
    for (int64_t j = 0; j < n; j++) {
        float difference = recon[j] + bias[j] - target[j];
        float size = __builtin_fabsf(difference);
        float slope = size > 0 ? __builtin_copysignf(weight, difference) : weight * difference;
        error += size;
        recon[j] = slope;
        sums[j] += slope;
    }
    return error;
}

/* recons (count, scans, columns) dense, without the bias (columns); out: their gradients, in place.
   target and weights as above. sums (columns), out: the sums of all gradients, which is the bias's.
   errors (count, scans): the errors are added to them. Gives 0, or 1 if there is no memory.

   Each task is some columns of all rows, so that bias and sums are read from the nearest cache. */
int layer_mse(int64_t count, int64_t scans, int64_t columns, int is_squared, float *recons, const float *bias,
              const float *target, int64_t target_stride, const float *weights, float *sums, double *errors)
{
    int64_t pieces = (columns + LAYER_COLUMNS - 1) / LAYER_COLUMNS, rows = count * scans;
    double *partial = malloc((rows * pieces + 1) * sizeof(double));
    if (!partial)
        return 1;
#pragma omp parallel for schedule(static) if (rows * columns > SERIAL)
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t first = piece * LAYER_COLUMNS;
        int64_t n = columns - first < LAYER_COLUMNS ? columns - first : LAYER_COLUMNS;
        memset(sums + first, 0, n * sizeof(float));
        for (int64_t scan = 0; scan < scans; scan++) {
            const float *goal = target + scan * target_stride + first;
            for (int64_t row = scan; row < rows; row += scans) {
                float *recon = recons + row * columns + first;
                double error = 0;
                if (weights[row] != 0)
                    error = of_layer(recon, bias + first, goal, sums + first, weights[row], n, is_squared);
                else
                    memset(recon, 0, n * sizeof(float));
                partial[row * pieces + piece] = error;
            }
        }
    }
    for (int64_t row = 0; row < rows; row++)
        for (int64_t piece = 0; piece < pieces; piece++)
            errors[row] += partial[row * pieces + piece];
    free(partial);
    return 0;
}
