// Losses: one block, f64 inside.
#pragma once
#include <backend/gpu/common.cuh>

// A logit, that of the right class reduced by the margin.
__device__ __forceinline__ double logit(const float *row, int k, int label, double margin) {
    return k == label ? row[k] - margin : row[k];
}

// log Σ exp of the logits of a row.
__device__ __forceinline__ double log_sum_exp(const float *row, int classes, int label, double margin) {
    double largest = -INFINITY, sum = 0.0;
    for (int k = 0; k < classes; k++)
        largest = fmax(largest, logit(row, k, label, margin));
    for (int k = 0; k < classes; k++)
        sum += exp(logit(row, k, label, margin) - largest);
    return largest + log(sum);
}

// The loss of a row: softmax and cross-entropy with more than 0 classes; else of one number, sigmoid and binary cross-entropy
// (kind 1) or squared error (kind 2).
__device__ __forceinline__ double row_loss(const float *x, const unsigned char *labels, const float *targets, int kind,
                                           double margin, int classes, int row) {
    // A label that is no class has no loss.
    if (kind == 0) {
        const float *logits = x + row * classes;
        const int label = labels[row];
        return label < classes ? log_sum_exp(logits, classes, label, margin) - logit(logits, label, label, margin) : NAN;
    }
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
                                        const float *__restrict__ targets, float *loss, double *totals, int kind,
                                        double margin, int classes, int rows) {
    begin();
    SHARED(double, scratch);
    double sum = 0.0, correct = 0.0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        sum += row_loss(x, labels, targets, kind, margin, classes, row);
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
                                         double margin, int classes, int rows) {
    begin();
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    const double scale = (double)*gradient / rows;
    if (kind == 0) {
        const float *logits = x + row * classes;
        const int label = labels[row];
        const double normaliser = log_sum_exp(logits, classes, label, margin);
        for (int k = 0; k < classes; k++)
            dx[row * classes + k] =
                (float)(scale * (exp(logit(logits, k, label, margin) - normaliser) - (k == label ? 1.0 : 0.0)));
        return;
    }
    const double value = x[row], target = targets[row];
    dx[row] = (float)(scale * (kind == 1 ? 1.0 / (1.0 + exp(-value)) - target : 2.0 * (value - target)));
}
