// Batches of a set of images on the device.
#pragma once
#include <backend/gpu/common.cuh>

// Images of a set (…, C, H, W), cropped, flipped and normalised: `crops` has the index of each and where it goes, dy + 128,
// dx + 128 and the flip in a byte each; `table` (C, 256) the value of each pixel. What is outside is black. A thread for each
// number.
template <typename T>
__device__ __forceinline__ void gather_images(const unsigned char *images, const T *table, const unsigned *crops, T *out, int total,
                                             int count, int channels, int height, int width) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    const int area = height * width, features = channels * area;
    if (at >= count * features)
        return;
    const int image = at / features, channel = at % features / area, row = at % area / width, column = at % width;
    const unsigned index = crops[2 * image], place = crops[2 * image + 1];
    const int y = row + (int)(place & 255) - 128;
    const int x = ((place >> 16) & 1 ? width - 1 - column : column) + (int)((place >> 8) & 255) - 128;
    const bool inside = index < (unsigned)total && y >= 0 && y < height && x >= 0 && x < width;
    const int value = inside ? images[(long long)index * features + channel * area + y * width + x] : 0;
    out[at] = table[channel * 256 + value];
}

#define GATHER_IMAGES(type, T)                                                                                              \
    extern "C" __global__ void gather_images_##type(                                                                        \
        const unsigned char *__restrict__ images, const T *__restrict__ table, const unsigned *__restrict__ crops,         \
        T *__restrict__ out, int total, int count, int channels, int height, int width) {                                  \
        begin();                                                                                                           \
        gather_images(images, table, crops, out, total, count, channels, height, width);                                    \
    }
FOR_TYPES(GATHER_IMAGES)
