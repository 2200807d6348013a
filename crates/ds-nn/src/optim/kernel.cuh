// Optimisers: all parameters of a group in one launch.
#pragma once
#include <backend/gpu/common.cuh>
#include <regularization/proximal/solver.cuh>

struct Slot {
    float *theta;
    // None counts as 0.
    const float *gradient;
    // The moving averages, one after the other.
    float *state;
    int length;
    float decay;
};
// As many as the arguments of a kernel have room for. Blocks first[k]..first[k + 1] work on slot k, 1024 numbers each.
struct Slots {
    int first[114];
    Slot slots[112];
};

template <typename F> __device__ __forceinline__ void update(const Slots &all, int count, F f) {
    const int low = array_of_block(all.first, count);
    const Slot &slot = all.slots[low];
    const int start = (blockIdx.x - all.first[low]) * 1024;
    for (int k = start + threadIdx.x; k < min(start + 1024, slot.length); k += blockDim.x)
        f(slot, k, (slot.gradient ? slot.gradient[k] : 0.0f) + slot.decay * slot.theta[k]);
}

// One more gradient in Adam's moving averages. Returns what the rate times the first one is divided by.
__device__ __forceinline__ float adam_averages(float &m, float &v, float g, float correction, float beta1, float beta2,
                                               float epsilon) {
    m = beta1 * m + (1.0f - beta1) * g;
    v = beta2 * v + (1.0f - beta2) * g * g;
    return sqrtf(v) * correction + epsilon;
}

extern "C" __global__ void sgd(const Slots all, int count, const float *schedule, float momentum) {
    begin();
    const float rate = schedule[0];
    update(all, count, [&](const Slot &slot, int k, float g) {
        const float v = momentum * slot.state[k] + g;
        slot.state[k] = v;
        slot.theta[k] -= rate * (g + momentum * v);
    });
}

// The schedule: the learning rate over the first bias correction, and 1/√ of the second one.
extern "C" __global__ void adam(const Slots all, int count, const float *schedule, float beta1, float beta2,
                                float epsilon) {
    begin();
    const float rate = schedule[0], correction = schedule[1];
    update(all, count, [&](const Slot &slot, int k, float g) {
        float &m = slot.state[k], &v = slot.state[(long long)slot.length + k];
        const float divisor = adam_averages(m, v, g, correction, beta1, beta2, epsilon);
        slot.theta[k] -= rate * m / divisor;
    });
}

// The coefficients or slope changes of a layer with a penalty on Σ|a|.
struct ProximalSlot {
    float *theta;
    // None counts as 0.
    const float *gradient;
    // The moving averages, one after the other.
    float *state;
    // Of the solver; none where the parameters are slope changes.
    double *work;
    // The weight of the second differences of coefficients, or of slope changes.
    double weight;
    int channels, size;
    // The numbers of a function, and λ of its L2 term.
    int width;
    float decay;
};
// Blocks first[k]..first[k + 1] work on slot k, a function each.
struct ProximalSlots {
    int first[58];
    ProximalSlot slots[56];
};

// Adam, then the proximal point of the penalty where each number's step size is its own, a block for each function. The schedule:
// as for Adam, then the learning rate. Shared: an int for each thread.
extern "C" __global__ void proximal_adam(const ProximalSlots all, int count, const float *schedule, float beta1,
                                         float beta2, float epsilon) {
    begin();
    SHARED(int, last);
    const float rate = schedule[0], correction = schedule[1], learning_rate = schedule[2];
    const int low = array_of_block(all.first, count);
    const ProximalSlot &slot = all.slots[low];
    const int channel = blockIdx.x - all.first[low], start = channel * slot.width;
    float *theta = slot.theta + start, *first = slot.state + start, *second = first + slot.channels * slot.width;
    const TrendFilter filter(slot.work + (long long)channel * TrendFilter::ARRAYS * slot.size, last, slot.size, slot.weight);
    const bool filters = slot.work && slot.weight > 0.0;
    if (filters)
        for (int k = threadIdx.x; k < slot.size - 2; k += blockDim.x)
            filter.side[k] = significant_sign(theta[k], theta[k + 1], theta[k + 2]);
    for (int k = threadIdx.x; k < slot.width; k += blockDim.x) {
        const float g = (slot.gradient ? slot.gradient[start + k] : 0.0f) + slot.decay * theta[k];
        const float divisor = adam_averages(first[k], second[k], g, correction, beta1, beta2, epsilon);
        const float moved = theta[k] - rate * first[k] / divisor, scale = learning_rate / divisor;
        if (filters) {
            filter.u[k] = moved;
            filter.w[k] = scale;
        } else {
            const float size = slot.work ? fabsf(moved) : fabsf(moved) - (float)slot.weight * scale;
            // NaN stays, so that a diverged layer is seen.
            theta[k] = size <= 0.0f ? 0.0f : moved < 0.0f ? -size : size;
        }
    }
    if (filters) {
        filter.solve();
        for (int k = threadIdx.x; k < slot.size; k += blockDim.x)
            theta[k] = (float)filter.primal(k);
    }
}
