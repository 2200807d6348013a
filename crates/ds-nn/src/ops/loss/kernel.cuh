// Losses: one block, f64 inside.
#pragma once
#include <backend/gpu/common.cuh>

// log Σ exp of a row.
__device__ __forceinline__ double log_sum_exp(const float *row, int classes) {
    double largest = -INFINITY, sum = 0.0;
    for (int k = 0; k < classes; k++)
        largest = fmax(largest, (double)row[k]);
    for (int k = 0; k < classes; k++)
        sum += exp(row[k] - largest);
    return largest + log(sum);
}

// The loss of a row: softmax and cross-entropy with more than 0 classes; else of one number, sigmoid and binary cross-entropy
// (kind 1) or squared error (kind 2).
__device__ __forceinline__ double row_loss(const float *x, const unsigned char *labels, const float *targets, int kind,
                                           int classes, int row) {
    // A label that is no class has no loss.
    if (kind == 0)
        return labels[row] < classes ? log_sum_exp(x + row * classes, classes) - x[row * classes + labels[row]] : NAN;
    const double value = x[row], target = targets[row];
    if (kind == 1)
        return fmax(value, 0.0) - value * target + log1p(exp(-fabs(value)));
    return (value - target) * (value - target);
}

// Whether the prediction of a row is correct; a squared error knows no such thing.
__device__ __forceinline__ bool is_correct(const float *x, const unsigned char *labels, const float *targets, int kind, int classes,
                                           int row) {
    if (kind != 0)
        return kind == 1 && (x[row] > 0.0f) == (targets[row] > 0.5f);
    int best = 0;
    for (int k = 1; k < classes; k++)
        if (x[row * classes + k] > x[row * classes + best])
            best = k;
    return best == labels[row];
}

// The mean loss; totals += (Σ loss, correct predictions) where there are some. Shared: a double for each thread.
extern "C" __global__ void loss_forward(const float *__restrict__ x, const unsigned char *__restrict__ labels,
                                        const float *__restrict__ targets, float *loss, double *totals, int kind, int classes,
                                        int rows) {
    SHARED(double, scratch);
    double sum = 0.0, correct = 0.0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        sum += row_loss(x, labels, targets, kind, classes, row);
        if (totals)
            correct += is_correct(x, labels, targets, kind, classes, row);
    }
    const double total = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        *loss = (float)(total / rows);
    if (!totals)
        return;
    correct = block_sum(correct, scratch);
    if (threadIdx.x == 0) {
        totals[0] += total;
        totals[1] += correct;
    }
}

// Its gradient, a thread for each row.
extern "C" __global__ void loss_backward(const float *__restrict__ x, const unsigned char *__restrict__ labels,
                                         const float *__restrict__ targets, const float *gradient, float *dx, int kind,
                                         int classes, int rows) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    const double scale = (double)*gradient / rows;
    if (kind == 0) {
        const double normaliser = log_sum_exp(x + row * classes, classes);
        for (int k = 0; k < classes; k++)
            dx[row * classes + k] = (float)(scale * (exp(x[row * classes + k] - normaliser) - (k == labels[row] ? 1.0 : 0.0)));
        return;
    }
    const double value = x[row], target = targets[row];
    dx[row] = (float)(scale * (kind == 1 ? 1.0 / (1.0 + exp(-value)) - target : 2.0 * (value - target)));
}
