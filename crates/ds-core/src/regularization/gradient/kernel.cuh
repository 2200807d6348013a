// The gradients of TV² and BV² of all spline layers in one launch.
#pragma once
#include "../../backend/gpu/common.cuh"

// One layer of splines whose norm is penalised.
struct NormLayer {
    // Coefficients (C, K), or slope changes (C, K−2), and what is to be added to.
    const float *knots;
    float *gradient;
    // The linear term, if there is one; where its gradient is not wanted there is none.
    const float *b1, *b0;
    float *db1, *db0;
    double weight, step;
    // Where 0 and 1 lie: segment, and position in it.
    double position[2];
    int segment[2];
    int channels, size;
    // 0: coefficients; 1: coefficients and a linear term; 2: slope changes and a linear term.
    int kind;
    int unused;
};
// As many as the arguments of a kernel have room for.
struct NormLayers {
    NormLayer layers[36];
};

// The slope change at inner knot k, rounded as on the CPU.
__device__ __forceinline__ float slope_change(const float *c, int k, float outer) {
    return fmaf(c[k + 2], outer, fmaf(c[k + 1], -(outer + outer), c[k] * outer));
}

// σ(0) or σ(1) of a channel.
__device__ __forceinline__ double value_at(const NormLayer &layer, int channel, int which) {
    const int i = layer.segment[which];
    const double step = layer.step, t = layer.position[which];
    float values[2];
    if (layer.kind == 2) {
        const float *a = layer.knots + channel * (layer.size - 2);
        double slope = layer.b1[channel], value = layer.b0[channel] + slope * knot_at(0, layer.size, step);
        float last = (float)value;
        for (int k = 1; k <= i + 1; k++) {
            last = (float)value;
            value += slope * step;
            if (k < layer.size - 1)
                slope += a[k - 1];
        }
        values[0] = last;
        values[1] = (float)value;
    } else {
        const float *c = layer.knots + channel * layer.size;
        for (int j = 0; j < 2; j++) {
            values[j] = c[i + j];
            if (layer.kind == 1)
                values[j] = (float)(c[i + j] + layer.b1[channel] * knot_at(i + j, layer.size, step) + layer.b0[channel]);
        }
    }
    return values[0] + t * ((double)values[1] - values[0]);
}

// Adds the gradient of weight·(TV² + |σ(0)| + |σ(1)|), or of one of these terms, a thread for each number. Grid: (layers, pieces of
// their numbers).
extern "C" __global__ void norm_gradient(const NormLayers all, int tv2, int values) {
    begin();
    const NormLayer &layer = all.layers[blockIdx.x];
    const int width = layer.kind == 2 ? layer.size - 2 : layer.size;
    for (int at = blockIdx.y * blockDim.x + threadIdx.x; at < layer.channels * width; at += gridDim.y * blockDim.x) {
        const int channel = at / width, k = at % width;
        float g = layer.gradient[at];
        if (tv2 && layer.kind == 2) {
            g += (float)layer.weight * sign(layer.knots[at]);
        } else if (tv2) {
            const float *c = layer.knots + channel * width;
            const float outer = 1.0f / (float)layer.step, unit = (float)(layer.weight / layer.step);
            if (k >= 2)
                g += unit * sign(slope_change(c, k - 2, outer));
            if (k >= 1 && k <= width - 2)
                g -= 2.0f * unit * sign(slope_change(c, k - 1, outer));
            if (k <= width - 3)
                g += unit * sign(slope_change(c, k, outer));
        }
        if (values) {
            const double at_0 = sign(value_at(layer, channel, 0)), at_1 = sign(value_at(layer, channel, 1));
            if (layer.kind == 2) {
                const double x = knot_at(k + 1, layer.size, layer.step);
                g += (float)(layer.weight * (at_0 * fmax(-x, 0.0) + at_1 * fmax(1.0 - x, 0.0)));
            } else {
                for (int which = 0; which < 2; which++) {
                    const double signed_weight = layer.weight * (which == 0 ? at_0 : at_1), t = layer.position[which];
                    if (k == layer.segment[which])
                        g += (float)(signed_weight * (1.0 - t));
                    if (k == layer.segment[which] + 1)
                        g += (float)(signed_weight * t);
                }
            }
            if (k == 0 && layer.db1)
                layer.db1[channel] += (float)(layer.weight * at_1);
            if (k == 0 && layer.db0)
                layer.db0[channel] += (float)(layer.weight * (at_0 + at_1));
        }
        layer.gradient[at] = g;
    }
}
