// A device that runs kernels on the CPU, at the other end of a pipe (see emulated.rs). Arrays have 0xff around and in them, which
// is NaN, until they are written; what is written around them ends the program.
//
// Requests, all numbers little-endian: 'A' bytes (u64) → address (u64); 'W' address, bytes, data; 'R' address, bytes → data;
// 'L' kernel (u32 length, name), grid x, grid y, threads, shared bytes, number of arguments (u32 each), and for each argument its
// kind, its bytes (u32) and data → status (u32): 0, or 1 unknown kernel, 2 number of arguments, 3 + k kind of argument k;
// 'Q' ends it.
#pragma once
#include "emulation.h"

#include <cstdio>
#include <map>
#include <string>
#include <tuple>
#include <utility>

namespace device {
template <typename N> N read() {
    N value;
    if (fread(&value, sizeof(N), 1, stdin) != 1)
        exit(3);
    return value;
}
inline std::vector<char> read_bytes(size_t count) {
    std::vector<char> bytes(count);
    if (count && fread(bytes.data(), 1, count, stdin) != count)
        exit(3);
    return bytes;
}
template <typename N> void write(N value) {
    fwrite(&value, sizeof(N), 1, stdout);
    fflush(stdout);
}

constexpr size_t GUARD = 256;
struct Array {
    unsigned char *start;
    size_t bytes;
};
inline std::vector<Array> arrays;

inline void check_guards() {
    for (const Array &array : arrays)
        for (size_t k = 0; k < GUARD; k++)
            if (array.start[-1 - (long)k] != 0xff || array.start[array.bytes + k] != 0xff) {
                fprintf(stderr, "an array of %zu bytes was left\n", array.bytes);
                exit(4);
            }
}

struct Argument {
    char kind;
    std::vector<char> bytes;
};
template <typename P> constexpr char kind_of() {
    if (std::is_pointer_v<P>)
        return 'p';
    if (std::is_same_v<P, int>)
        return 'i';
    if (std::is_same_v<P, unsigned long long>)
        return 'l';
    if (std::is_same_v<P, float>)
        return 'f';
    if (std::is_same_v<P, double>)
        return 'd';
    return 's';
}
template <typename P> P value_of(const Argument &argument) {
    P value;
    std::memcpy(&value, argument.bytes.data(), sizeof(P));
    return value;
}

using Launch = std::function<unsigned(const std::vector<Argument> &, dim3, unsigned, size_t)>;
inline std::map<std::string, Launch> kernels;

template <typename... P, size_t... K>
unsigned start(void (*kernel)(P...), const std::vector<Argument> &a, dim3 grid, unsigned threads, size_t shared,
               std::index_sequence<K...>) {
    if (sizeof...(P) != a.size())
        return 2;
    unsigned wrong = 0;
    ((wrong = wrong == 0 && (a[K].kind != kind_of<P>() || a[K].bytes.size() != (sizeof(P) + 7) / 8 * 8) &&
                      (a[K].kind != kind_of<P>() || a[K].bytes.size() != sizeof(P))
                  ? 3 + K
                  : wrong),
     ...);
    if (wrong)
        return wrong;
    std::tuple<P...> values{value_of<P>(a[K])...};
    emulation::launch(grid, threads, shared, [&] { std::apply(kernel, values); });
    return 0;
}
template <typename... P> void add(const char *name, void (*kernel)(P...)) {
    kernels[name] = [kernel](const std::vector<Argument> &a, dim3 grid, unsigned threads, size_t shared) {
        return start(kernel, a, grid, threads, shared, std::index_sequence_for<P...>{});
    };
}

inline int serve() {
    for (;;) {
        switch (read<char>()) {
        case 'A': {
            const size_t bytes = read<uint64_t>();
            auto *all = static_cast<unsigned char *>(aligned_alloc(256, (bytes + 2 * GUARD + 255) / 256 * 256));
            memset(all, 0xff, bytes + 2 * GUARD);
            arrays.push_back({all + GUARD, bytes});
            write<uint64_t>(reinterpret_cast<uint64_t>(all + GUARD));
            break;
        }
        case 'W': {
            char *to = reinterpret_cast<char *>(read<uint64_t>());
            const auto bytes = read_bytes(read<uint64_t>());
            memcpy(to, bytes.data(), bytes.size());
            break;
        }
        case 'R': {
            check_guards();
            const char *from = reinterpret_cast<char *>(read<uint64_t>());
            const size_t bytes = read<uint64_t>();
            fwrite(from, 1, bytes, stdout);
            fflush(stdout);
            break;
        }
        case 'L': {
            const auto name = read_bytes(read<uint32_t>());
            dim3 grid;
            grid.x = read<uint32_t>();
            grid.y = read<uint32_t>();
            const auto threads = read<uint32_t>(), shared = read<uint32_t>(), count = read<uint32_t>();
            std::vector<Argument> arguments;
            for (unsigned k = 0; k < count; k++) {
                const char kind = read<char>();
                arguments.push_back({kind, read_bytes(read<uint32_t>())});
            }
            const auto kernel = kernels.find(std::string(name.begin(), name.end()));
            write<uint32_t>(kernel == kernels.end() ? 1 : kernel->second(arguments, grid, threads, shared));
            break;
        }
        default:
            check_guards();
            return 0;
        }
    }
}
} // namespace device

#define KERNEL(name) device::add(#name, name)
// Of both types.
#define KERNEL_TYPES(name)                                                                                               \
    KERNEL(name##_f32);                                                                                                  \
    KERNEL(name##_bf16)
// And for vectors and scalars.
#define KERNEL_MAPPINGS(name)                                                                                            \
    KERNEL_TYPES(name##_vectors);                                                                                        \
    KERNEL_TYPES(name##_scalars)
