// argmin ½ Σ (c − u)²/w + μ·‖D·c‖₁ for one function by one block, in the steps of solver.rs. The equations of a step are
// block tridiagonal, with blocks of 2×2, and are solved by parallel cyclic reduction: log₂(K/2) steps instead of K.
#pragma once
#include "../../backend/gpu/common.cuh"

// A row of blocks of a symmetric matrix, for two neighbouring unknowns, and its right side: the block on the diagonal, and
// the block that couples it to the row `distance` after it.
struct BlockRow {
    double b00, b01, b11;
    double c00, c01, c10, c11;
    double d0, d1;
};

// X·B⁻¹, row by row, for the block X that couples a row of blocks to a neighbour with the block B on its diagonal.
struct BlockFactor {
    double a00, a01, a10, a11;

    // Also takes this multiple of the neighbour from a row, so that the neighbour's unknowns are in it no more.
    __device__ __forceinline__ BlockFactor(BlockRow &out, const BlockRow &neighbour, double x00, double x01, double x10,
                                           double x11) {
        const double b00 = neighbour.b00, b01 = neighbour.b01, b11 = neighbour.b11, inverse = 1.0 / (b00 * b11 - b01 * b01);
        a00 = (x00 * b11 - x01 * b01) * inverse, a01 = (x01 * b00 - x00 * b01) * inverse;
        a10 = (x10 * b11 - x11 * b01) * inverse, a11 = (x11 * b00 - x10 * b01) * inverse;
        out.b00 -= a00 * x00 + a01 * x01;
        out.b01 -= a00 * x10 + a01 * x11;
        out.b11 -= a10 * x10 + a11 * x11;
        out.d0 -= a00 * neighbour.d0 + a01 * neighbour.d1;
        out.d1 -= a10 * neighbour.d0 + a11 * neighbour.d1;
    }
};

// The arrays of a function with K knots, for one block, all of whose threads call what has barriers.
struct TrendFilter {
    // Numbers of `work` for each knot.
    static constexpr int ARRAYS = 14;

    // w and u (K); the sign of the bound that z is at, 0 where it is free, and z (K − 2); two arrays of BlockRow.
    double *w, *u, *side, *z, *rows[2];
    // The last z of each thread that breaks a condition.
    int *last;
    int size, blocks;
    double mu;

    __device__ TrendFilter(double *work, int *last, int size, double mu) : last(last), size(size), blocks((size - 1) / 2), mu(mu) {
        w = work, u = w + size, side = u + size, z = side + size, rows[0] = z + size, rows[1] = rows[0] + 5 * size;
    }
    // Of the inner knots, with 0 outside.
    __device__ double inner(const double *array, int k) const { return k >= 0 && k < size - 2 ? array[k] : 0.0; }
    __device__ bool is_free(int k) const { return k >= 0 && k < size - 2 && side[k] == 0.0; }
    __device__ double bound(int k) const { return mu * inner(side, k); }
    // c = u − diag(w)·Dᵀz.
    __device__ double primal(int k) const { return u[k] - w[k] * (inner(z, k - 2) - 2.0 * inner(z, k - 1) + inner(z, k)); }

    // All rows' first numbers, then all second ones, so that neighbouring threads read neighbours.
    __device__ BlockRow row(int buffer, int at) const {
        const double *from = rows[buffer] + at;
        const int n = blocks;
        return {from[0], from[n], from[2 * n], from[3 * n], from[4 * n], from[5 * n], from[6 * n], from[7 * n], from[8 * n]};
    }
    __device__ void put(int buffer, int at, const BlockRow &row) const {
        double *to = rows[buffer] + at;
        const int n = blocks;
        to[0] = row.b00, to[n] = row.b01, to[2 * n] = row.b11;
        to[3 * n] = row.c00, to[4 * n] = row.c01, to[5 * n] = row.c10, to[6 * n] = row.c11;
        to[7 * n] = row.d0, to[8 * n] = row.d1;
    }

    // Row k of D·diag(w)·Dᵀ for the z that are free: its diagonal, what couples it to the next two, and its right side. A z at
    // a bound has the equation that it is there.
    __device__ void equation(int k, double &diagonal, double &next, double &after_next, double &right_side) const {
        diagonal = 1.0, next = 0.0, after_next = 0.0, right_side = bound(k);
        if (!is_free(k))
            return;
        const double w0 = w[k], w1 = w[k + 1], w2 = w[k + 2], left = -2.0 * (w0 + w1), right = -2.0 * (w1 + w2);
        diagonal = w0 + 4.0 * w1 + w2;
        // At a learning rate of 0 all w are 0, and c is u whatever z is. With some of 0 there may be more equations than solutions.
        if (diagonal == 0.0)
            diagonal = 1.0;
        else if (w0 == 0.0 || w1 == 0.0 || w2 == 0.0)
            diagonal *= 1.0 + 1e-10;
        next = is_free(k + 1) ? right : 0.0;
        after_next = is_free(k + 2) ? w2 : 0.0;
        const double of_bounds = w0 * bound(k - 2) + left * bound(k - 1) + right * bound(k + 1) + w2 * bound(k + 2);
        right_side = u[k] - 2.0 * u[k + 1] + u[k + 2] - of_bounds;
    }

    // The z that solve the equations.
    __device__ void solve_equations() const {
        for (int at = threadIdx.x; at < blocks; at += blockDim.x) {
            BlockRow row;
            equation(2 * at, row.b00, row.b01, row.c00, row.d0);
            equation(2 * at + 1, row.b11, row.c10, row.c11, row.d1);
            row.c01 = 0.0;
            put(0, at, row);
        }
        int from = 0;
        for (int distance = 1; distance < blocks; distance *= 2, from = 1 - from) {
            __syncthreads();
            for (int at = threadIdx.x; at < blocks; at += blockDim.x) {
                const BlockRow here = row(from, at);
                BlockRow out = {here.b00, here.b01, here.b11, 0.0, 0.0, 0.0, 0.0, here.d0, here.d1};
                if (at >= distance) {
                    const BlockRow before = row(from, at - distance);
                    BlockFactor(out, before, before.c00, before.c10, before.c01, before.c11);
                }
                if (at + distance < blocks) {
                    const BlockRow after = row(from, at + distance);
                    const BlockFactor f(out, after, here.c00, here.c01, here.c10, here.c11);
                    out.c00 = -(f.a00 * after.c00 + f.a01 * after.c10), out.c01 = -(f.a00 * after.c01 + f.a01 * after.c11);
                    out.c10 = -(f.a10 * after.c00 + f.a11 * after.c10), out.c11 = -(f.a10 * after.c01 + f.a11 * after.c11);
                }
                put(1 - from, at, out);
            }
        }
        // Each thread reads rows that it wrote itself.
        for (int at = threadIdx.x; at < blocks; at += blockDim.x) {
            const BlockRow of = row(from, at);
            const double inverse = 1.0 / (of.b00 * of.b11 - of.b01 * of.b01);
            z[2 * at] = (of.b11 * of.d0 - of.b01 * of.d1) * inverse;
            if (2 * at + 1 < size - 2)
                z[2 * at + 1] = (of.b00 * of.d1 - of.b01 * of.d0) * inverse;
        }
    }

    // Lets z that break a condition change sides: all, or the last. Whether any did.
    __device__ bool exchange(bool only_last) const {
        const double tolerance = 1e-12;
        int broken = -1;
        __syncthreads();
        for (int k = threadIdx.x; k < size - 2; k += blockDim.x) {
            const double c0 = primal(k), c1 = primal(k + 1), c2 = primal(k + 2), s = side[k];
            const double allowed = tolerance * (fabs(c0) + 2.0 * fabs(c1) + fabs(c2));
            if (s == 0.0 ? fabs(z[k]) > mu * (1.0 + tolerance) : (c0 - 2.0 * c1 + c2) * s < -allowed) {
                broken = k;
                if (!only_last)
                    change_side(k);
            }
        }
        broken = largest(broken);
        if (only_last && broken >= 0 && broken % blockDim.x == threadIdx.x)
            change_side(broken);
        __syncthreads();
        return broken >= 0;
    }
    // The largest number of all threads.
    __device__ int largest(int of_thread) const {
        last[threadIdx.x] = of_thread;
        __syncthreads();
        for (int thread = 0; thread < blockDim.x; thread++)
            of_thread = max(of_thread, last[thread]);
        return of_thread;
    }
    // Whether slope changes at free z are 0. Where w differ by orders of magnitude, rounding in the reduction can be larger.
    __device__ bool is_solved() const {
        const double tolerance = 1e-8;
        int wrong = 0;
        for (int k = threadIdx.x; k < size - 2; k += blockDim.x) {
            const double change = primal(k) - 2.0 * primal(k + 1) + primal(k + 2);
            // With a learning rate of 0 all w are 0, and c is u.
            const bool moves = w[k] != 0.0 || w[k + 1] != 0.0 || w[k + 2] != 0.0;
            if (moves && is_free(k) && !(fabs(change) <= tolerance * (fabs(u[k]) + 2.0 * fabs(u[k + 1]) + fabs(u[k + 2]))))
                wrong = 1;
        }
        wrong = largest(wrong);
        __syncthreads();
        return wrong == 0;
    }
    __device__ void change_side(int k) const { side[k] = side[k] != 0.0 ? 0.0 : z[k] > 0.0 ? 1.0 : -1.0; }

    // Leaves z; c is then `primal`.
    __device__ void solve() const {
        __syncthreads();
        // Whether a z changed sides in the last pass.
        bool changed = true;
        for (int pass = 0; changed && pass < 500; pass++) {
            solve_equations();
            changed = exchange(pass >= 12);
        }
        if (!changed && is_solved())
            return;
        if (threadIdx.x == 0)
            interior_point();
        __syncthreads();
    }

    // The steps of interior_point.rs, by one thread: hardly any function needs them.
    __device__ void interior_point() const {
        const int n = size - 2;
        double *above = rows[0], *below = above + size, *p = below + size, *q = p + size, *dz = q + size;
        double *alpha = rows[1], *beta = alpha + size, *alpha_d = beta + size, *pivots = alpha_d + size;
        double change = 0.0;
        for (int k = 0; k < n; k++)
            change = fmax(change, fabs(u[k] - 2.0 * u[k + 1] + u[k + 2]));
        for (int k = 0; k < n; k++)
            z[k] = 0.0, above[k] = below[k] = mu, p[k] = q[k] = change;
        for (int step = 0; step < 200 && change > 0.0; step++) {
            double gap = 0.0;
            for (int k = 0; k < n; k++)
                gap += p[k] * above[k] + q[k] * below[k];
            if (gap <= 1e-15 * 2.0 * n * mu * change)
                return;
            const double t = 0.1 * gap / (2 * n);
            for (int k = 0; k < n; k++) {
                // Of A + diag(p/above + q/below), with w for what couples z(k) to z(k + 2).
                const double one = inner(alpha, k - 1), two = inner(beta, k - 2), one_d = inner(alpha_d, k - 1);
                const double pivot = w[k] + 4.0 * w[k + 1] + w[k + 2] + p[k] / above[k] + q[k] / below[k] - one * one_d -
                                     two * w[k];
                alpha_d[k] = -2.0 * (w[k + 1] + w[k + 2]) - one * w[k + 1];
                alpha[k] = alpha_d[k] / pivot, beta[k] = w[k + 2] / pivot;
                // The residual is b − A·z − t/above + t/below, and b − A·z the second differences of c.
                const double rest = primal(k) - 2.0 * primal(k + 1) + primal(k + 2) - t / above[k] + t / below[k];
                // Over the pivot when the next loop reads it.
                dz[k] = rest - one * inner(dz, k - 1) - two * inner(dz, k - 2);
                pivots[k] = pivot;
            }
            for (int k = n - 1; k >= 0; k--)
                dz[k] = dz[k] / pivots[k] - alpha[k] * inner(dz, k + 1) - beta[k] * inner(dz, k + 2);
            double length = 1.0;
            bool is_finite = true;
            for (int k = 0; k < n; k++) {
                const double dp = (t + p[k] * dz[k]) / above[k] - p[k], dq = (t - q[k] * dz[k]) / below[k] - q[k];
                length = fmin(fmin(until(above[k], -dz[k]), until(below[k], dz[k])), fmin(length, fmin(until(p[k], dp), until(q[k], dq))));
                is_finite = is_finite && dz[k] - dz[k] == 0.0;
            }
            if (!is_finite)
                return;
            for (int k = 0; k < n; k++) {
                const double dp = (t + p[k] * dz[k]) / above[k] - p[k], dq = (t - q[k] * dz[k]) / below[k] - q[k];
                above[k] -= length * dz[k], below[k] += length * dz[k];
                p[k] += length * dp, q[k] += length * dq;
                // The smaller distance has more digits than z.
                z[k] = above[k] < below[k] ? mu - above[k] : below[k] - mu;
            }
        }
    }
    // The length of a step that keeps x above 0.
    static __device__ double until(double x, double dx) { return dx < 0.0 ? -0.99 * x / dx : 1.0; }
};

// The sign of the second difference of three coefficients; 0 where it is not above their rounding.
__device__ __forceinline__ double significant_sign(double c0, double c1, double c2) {
    const double difference = (c2 - c1) - (c1 - c0);
    const double rounding = 0.5 * 1.1920928955078125e-7 * (fabs(c0) + 2.0 * fabs(c1) + fabs(c2));
    return fabs(difference) > rounding ? (difference > 0.0 ? 1.0 : -1.0) : 0.0;
}
