// All GPU kernels of this crate in one module. The kernels of an op are beside its Rust code.
#include "../../ops/hinges/kernel.cuh"
#include "../../ops/linear_spline/kernel.cuh"
#include "../../regularization/gradient/kernel.cuh"
#include "../../ops/rectifier/kernel.cuh"
#include "../../ops/reparametrization/kernel.cuh"
