// argmin ½ Σ (c − u)²/w + μ·‖D·c‖₁ for one function in one thread, as solver.rs does it.
#pragma once
#include "../../backend/gpu/common.cuh"

// Arrays of a function with K knots, element k of which is `stride` numbers after element k − 1: neighbouring threads have
// neighbouring functions.
struct TrendFilter {
    // w and u (K); the sign of the bound that z is at, 0 where it is free (K − 2); L(k+1, k), L(k+2, k) and z (K − 2).
    double *w, *u, *side, *alpha, *beta, *z;
    int size, stride;
    double mu;

    __device__ TrendFilter(double *work, int size, int stride, double mu) : size(size), stride(stride), mu(mu) {
        const long long length = (long long)size * stride;
        w = work, u = w + length, side = u + length, alpha = side + length, beta = alpha + length, z = beta + length;
    }
    __device__ double &at(double *array, int k) const { return array[(long long)k * stride]; }
    // Of the inner knots, with 0 outside.
    __device__ double inner(double *array, int k) const { return k >= 0 && k < size - 2 ? at(array, k) : 0.0; }
    __device__ bool is_free(int k) const { return k >= 0 && k < size - 2 && at(side, k) == 0.0; }
    __device__ double bound(int k) const { return mu * inner(side, k); }
    // c = u − diag(w)·Dᵀz.
    __device__ double primal(int k) const {
        return at(u, k) - at(w, k) * (inner(z, k - 2) - 2.0 * inner(z, k - 1) + inner(z, k));
    }

    // Solves the equations of the z that are free, by LDLᵀ.
    __device__ void factorise_and_solve() {
        double alpha_d = 0.0, alpha_1 = 0.0, beta_d_1 = 0.0, beta_1 = 0.0, y_1 = 0.0, beta_d_2 = 0.0, beta_2 = 0.0, y_2 = 0.0;
        for (int k = 0; k < size - 2; k++) {
            const double f = is_free(k) ? 1.0 : 0.0, w0 = at(w, k), w1 = at(w, k + 1), w2 = at(w, k + 2);
            const double left = -2.0 * (w0 + w1), right = -2.0 * (w1 + w2);
            const double diagonal = f * (w0 + 4.0 * w1 + w2) + (1.0 - f);
            const double of_bounds = w0 * bound(k - 2) + left * bound(k - 1) + right * bound(k + 1) + w2 * bound(k + 2);
            const double right_side = f * (at(u, k) - 2.0 * at(u, k + 1) + at(u, k + 2) - of_bounds) + bound(k);
            const double inverse = 1.0 / (diagonal - alpha_1 * alpha_d - beta_2 * beta_d_2);
            const double y = right_side - alpha_1 * y_1 - beta_2 * y_2;
            alpha_d = (is_free(k + 1) ? f * right : 0.0) - alpha_1 * beta_d_1;
            beta_d_2 = beta_d_1, beta_2 = beta_1, y_2 = y_1;
            beta_d_1 = is_free(k + 2) ? f * w2 : 0.0;
            alpha_1 = alpha_d * inverse, beta_1 = beta_d_1 * inverse, y_1 = y;
            at(alpha, k) = alpha_1, at(beta, k) = beta_1, at(z, k) = y * inverse;
        }
        double z_1 = 0.0, z_2 = 0.0;
        for (int k = size - 3; k >= 0; k--) {
            const double value = at(z, k) - at(alpha, k) * z_1 - at(beta, k) * z_2;
            z_2 = z_1, z_1 = value;
            at(z, k) = value;
        }
    }

    // Lets z that break a condition change sides: all, or the last. Whether any did.
    __device__ bool exchange(bool only_last) {
        const double tolerance = 1e-12;
        bool any = false;
        double c1 = primal(size - 1), c0 = primal(size - 2);
        for (int k = size - 3; k >= 0; k--) {
            const double c2 = c1;
            c1 = c0, c0 = primal(k);
            const double change = c0 - 2.0 * c1 + c2, s = at(side, k), value = at(z, k);
            const double allowed = tolerance * (fabs(c0) + 2.0 * fabs(c1) + fabs(c2));
            const bool broken = s == 0.0 ? fabs(value) > mu * (1.0 + tolerance) : change * s < -allowed;
            if (broken && !(any && only_last)) {
                at(side, k) = s != 0.0 ? 0.0 : value > 0.0 ? 1.0 : -1.0;
                any = true;
            }
        }
        return any;
    }

    // Leaves z; c is then `primal`.
    __device__ void solve() {
        for (int pass = 0; pass < 10000; pass++) {
            factorise_and_solve();
            if (!exchange(pass >= 12))
                return;
        }
        for (int k = 0; k < size - 2; k++)
            at(z, k) = fmin(fmax(at(z, k), -mu), mu);
    }
};

// The sign of the second difference of three coefficients; 0 where it is not above their rounding.
__device__ __forceinline__ double significant_sign(double c0, double c1, double c2) {
    const double difference = (c2 - c1) - (c1 - c0);
    const double rounding = 0.5 * 1.1920928955078125e-7 * (fabs(c0) + 2.0 * fabs(c1) + fabs(c2));
    return fabs(difference) > rounding ? (difference > 0.0 ? 1.0 : -1.0) : 0.0;
}
