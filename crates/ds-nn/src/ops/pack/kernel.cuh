// Many arrays copied into one in one launch.
#pragma once
#include <backend/gpu/common.cuh>

struct Piece {
    // None counts as 0.
    const float *from;
    int length;
    int start;
};
// Blocks first[k]..first[k + 1] work on piece k, 1024 numbers each.
struct Pieces {
    int first[194];
    Piece pieces[192];
};

// out[start + k] = scale·from[k]; behind a piece it is 0 up to the next multiple of 4.
extern "C" __global__ void pack_pieces(const Pieces all, int count, float *out, float scale) {
    begin();
    const int low = array_of_block(all.first, count);
    const Piece &piece = all.pieces[low];
    const int begin = (blockIdx.x - all.first[low]) * 1024, end = (piece.length + 3) / 4 * 4;
    for (int k = begin + threadIdx.x; k < min(begin + 1024, end); k += blockDim.x)
        out[piece.start + k] = piece.from && k < piece.length ? scale * piece.from[k] : 0.0f;
}
