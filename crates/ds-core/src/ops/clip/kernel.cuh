// Parameters that are clipped to [−1, 1], in f32. NaN stays, and takes no gradient.
#pragma once
#include "../../backend/gpu/common.cuh"

extern "C" __global__ void unit_clip_f32(const float *__restrict__ a, float *__restrict__ out, int n, int aligned) {
    begin();
    pointwise<float>(a, nullptr, out, n, aligned,
                     [&](float a, float, long long) { return a < -1.0f ? -1.0f : a > 1.0f ? 1.0f : a; });
}
extern "C" __global__ void unit_clip_gradient_f32(const float *__restrict__ a, const float *__restrict__ dy,
                                                  float *__restrict__ da, int n, int aligned) {
    begin();
    pointwise<float>(a, dy, da, n, aligned,
                     [&](float a, float dy, long long) { return a >= -1.0f && a <= 1.0f ? dy : 0.0f; });
}
