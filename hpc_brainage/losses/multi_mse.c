/* Several reconstructions of one target: their errors and gradients in one pass over memory.

   Each task is one scan and at most COLUMNS of its columns. The target's columns are read once and are still
   in the cache for the next reconstruction. A reconstruction of weight 0 is not read at all, and its
   gradient is 0. A gradient may be written over its reconstruction.

   Sums are float within a task and double over tasks, in an order that does not depend on how many threads
   there are. Compiled with `#pragma omp simd`, whose reductions the compiler may vectorise; without
   -ffast-math, which would change how the whole process treats small numbers. */

#include <stdint.h>
#include <string.h>

#define COLUMNS 8192
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

/* recons, gradients: `count` matrices (scans, columns), the columns dense, rows `*_strides` elements apart;
   weights (count, scans) dense; partial: room for count * scans * ceil(columns / COLUMNS) doubles;
   errors (count, scans) dense, out: the unweighted sum over columns. gradients may be NULL. */
void multi_mse(int64_t count, int64_t scans, int64_t columns, int is_squared, const float *const *recons,
               const int64_t *recon_strides, const float *target, int64_t target_stride,
               float *const *gradients, const int64_t *gradient_strides, const float *weights,
               double *partial, double *errors)
{
    int64_t pieces = (columns + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for schedule(static) if (count * scans * columns > SERIAL)
    for (int64_t task = 0; task < scans * pieces; task++) {
        int64_t scan = task / pieces, piece = task % pieces, first = piece * COLUMNS;
        int64_t n = columns - first < COLUMNS ? columns - first : COLUMNS;
        for (int64_t k = 0; k < count; k++) {
            float weight = weights[k * scans + scan];
            float *gradient = gradients ? gradients[k] + scan * gradient_strides[k] + first : NULL;
            double error = 0;
            if (weight != 0) {
                const float *recon = recons[k] + scan * recon_strides[k] + first;
                const float *goal = target + scan * target_stride + first;
                error = is_squared ? squared(recon, goal, gradient, weight, n)
                                   : absolute(recon, goal, gradient, weight, n);
            } else if (gradient) {
                memset(gradient, 0, n * sizeof(float));
            }
            partial[(k * scans + scan) * pieces + piece] = error;
        }
    }
    for (int64_t row = 0; row < count * scans; row++) {
        errors[row] = 0;
        for (int64_t piece = 0; piece < pieces; piece++)
            errors[row] += partial[row * pieces + piece];
    }
}
