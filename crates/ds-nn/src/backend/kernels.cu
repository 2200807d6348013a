// All GPU kernels of this crate in one module. The kernels of an op are beside its Rust code; headers of ds-core are on the include
// path. What flows between layers is f32 or bf16, all else f32. Sums are merged in a fixed order: the same input gives the same bits.
#include "../ops/bias/kernel.cuh"
#include "../ops/conv2d/few_channels.cuh"
#include "../ops/dropout/kernel.cuh"
#include "../ops/images/kernel.cuh"
#include "../ops/loss/kernel.cuh"
#include "../ops/norm_activation/kernel.cuh"
#include "../ops/pack/kernel.cuh"
#include "../ops/pool/kernel.cuh"
#include "../ops/sum/kernel.cuh"
#include "../optim/kernel.cuh"
