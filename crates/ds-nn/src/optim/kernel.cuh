// Optimisers: all parameters of a group in one launch.
#pragma once
#include "../backend/blocks.cuh"

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

extern "C" __global__ void sgd(const Slots all, int count, const float *schedule, float momentum) {
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
    const float rate = schedule[0], correction = schedule[1];
    update(all, count, [&](const Slot &slot, int k, float g) {
        float *second = slot.state + slot.length;
        const float m = beta1 * slot.state[k] + (1.0f - beta1) * g;
        const float v = beta2 * second[k] + (1.0f - beta2) * g * g;
        slot.state[k] = m;
        second[k] = v;
        slot.theta[k] -= rate * m / (sqrtf(v) * correction + epsilon);
    });
}
