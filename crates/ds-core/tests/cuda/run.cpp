// Runs the kernels of the linear spline on the CPU for one case after the other, read from the standard input as 32-bit numbers
// (a first 0 ends it):
//
//   1, type (0 f32, 1 f16, 2 bf16), rows N, channels C, inner, segments, step (float), then for each direction
//   mapping (0 vectors, 1 scalars, 2 columns), threads, pieces, across, rows of a block, shared bytes, copies; x, c, ∂y (floats)
//
// and writes y, ∂x and ∂c as floats.
#include "emulation.h"

#include "../../src/ops/linear_spline/kernel.cu"

#include <cstdio>

template <typename N> N read() {
    N value;
    if (fread(&value, sizeof(N), 1, stdin) != 1)
        exit(3);
    return value;
}

struct Launch {
    int mapping, threads, pieces, across, rows, shared, copies;
    Launch()
        : mapping(read<int>()), threads(read<int>()), pieces(read<int>()), across(read<int>()), rows(read<int>()),
          shared(read<int>()), copies(read<int>()) {}
    template <typename F> void operator()(F f) const {
        emulation::launch({unsigned(pieces), unsigned(across)}, threads, shared, f);
    }
};

// Numbers on the heap with NaN around them, aligned to 16 bytes as on a device.
template <typename T> struct Guarded {
    static constexpr size_t GUARD = 64;
    size_t count;
    T *start;
    T *all;
    explicit Guarded(size_t count) : count(count) {
        const size_t bytes = ((count + 2 * GUARD) * sizeof(T) + 63) / 64 * 64;
        all = static_cast<T *>(aligned_alloc(64, bytes));
        start = all + GUARD;
        for (size_t k = 0; k < count + 2 * GUARD; k++)
            all[k] = from_float<T>(NAN);
    }
    ~Guarded() { free(all); }
    static Guarded read_floats(size_t count) {
        Guarded guarded(count);
        for (size_t k = 0; k < count; k++)
            guarded.start[k] = from_float<T>(read<float>());
        return guarded;
    }
    Guarded(Guarded &&other) : count(other.count), start(other.start), all(other.all) { other.all = nullptr; }
    // Writes the numbers, and fails if any around them was written.
    void write() const {
        for (size_t k = 0; k < GUARD; k++)
            if (!std::isnan(to_float(all[k])) || !std::isnan(to_float(start[count + k])))
                exit(4);
        for (size_t k = 0; k < count; k++) {
            const float value = to_float(start[k]);
            fwrite(&value, 4, 1, stdout);
        }
    }
};

template <typename T> void run() {
    const int rows = read<int>(), channels = read<int>(), inner = read<int>(), segments = read<int>();
    const float step = read<float>();
    const int centre = (segments + 1) / 2;
    const Knots knots = {step, 1.0f / step, float(-centre), float(segments - 1 - centre), centre, segments};
    const Launch forward, backward;
    const size_t count = size_t(rows) * channels * inner;
    const auto x = Guarded<T>::read_floats(count);
    const auto c = Guarded<float>::read_floats(size_t(channels) * (segments + 1));
    const auto dy = Guarded<T>::read_floats(count);
    const Guarded<T> y(count), dx(count);
    const int columns = backward.mapping == 2 ? inner : 1;
    const Guarded<float> partial(size_t(backward.pieces) * channels * columns * (segments + 1));
    const Guarded<float> dc(size_t(channels) * (segments + 1));
    forward([&] {
        const auto with = [&](auto kernel) {
            kernel(x.start, c.start, y.start, knots, 8 * forward.copies, rows, channels, inner, forward.rows);
        };
        switch (forward.mapping) {
        case 0:
            return with(forward_planes<T, Vector<T>>);
        case 1:
            return with(forward_planes<T, Scalar<T>>);
        default:
            return with(forward_columns<T>);
        }
    });
    backward([&] {
        const auto with = [&](auto kernel) {
            kernel(x.start, c.start, dy.start, dx.start, partial.start, knots, rows, channels, inner, backward.rows);
        };
        switch (backward.mapping) {
        case 0:
            return with(backward_planes<T, Vector<T>>);
        case 1:
            return with(backward_planes<T, Scalar<T>>);
        default:
            return with(backward_columns<T>);
        }
    });
    const unsigned merged = unsigned(channels) * (segments + 1);
    emulation::launch({(merged + 255) / 256}, 256, 0, [&] {
        spline_merge(partial.start, dc.start, backward.pieces, channels, columns, segments + 1);
    });
    y.write();
    dx.write();
    dc.write();
    fflush(stdout);
}

int main() {
    while (read<int>() != 0) {
        switch (read<int>()) {
        case 0:
            run<float>();
            break;
        case 1:
            run<__half>();
            break;
        default:
            run<__nv_bfloat16>();
        }
    }
}
