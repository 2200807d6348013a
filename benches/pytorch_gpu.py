"""The rows of crates/ds-lab/examples/gpu_bench.rs for PyTorch and DeepSplines, on a GPU.

    pip install torch deepsplines
    python benches/pytorch_gpu.py [--json FILE] [--only REGEX]

Networks and layers are those of the deepsplines package, as in torch_side.py; `relu` is plain PyTorch. Settings are PyTorch's
defaults, and cuDNN may measure its algorithms (torch.backends.cudnn.benchmark), as ours does. Steps in bf16 are under
torch.autocast, forward pass and loss; layers alone take tensors in bf16. Images lie on the device; no step
fetches anything from it. Times are the best of some rounds of at least a tenth of a second each; memory is the most that tensors
held at a time, with CUDA graphs from the capture on, which is when a graph's private pool is filled. Without a GPU it says so and
measures nothing.

Steps with ReLU are also measured as PyTorch can do them best: in the memory format channels_last, as one CUDA graph (forward pass,
backward pass and optimiser), compiled by torch.compile, and combinations of these. A row `…, best` repeats the fastest of all.
`--no-compile` leaves out torch.compile, which takes a minute or more, and `--only` all rows whose name a regular expression does not
find; the best is then that of the rows measured. gpu_table.py puts the files of several calls together.
"""
import argparse
import contextlib
import gc
import json
import re
import sys
import time
from pathlib import Path

ROUNDS, SECONDS = 7, 0.1
SHAPE = (1024, 64, 32, 32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--only", type=re.compile, default="", help="a regular expression; rows whose name it does not find are left out")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("no PyTorch, nothing was measured: pip install torch deepsplines")
        return
    if not torch.cuda.is_available():
        print("no CUDA device, nothing was measured")
        return
    torch.backends.cudnn.benchmark = True
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    print(f"{'':<44} {'ms':>10} {'GB/s':>8} {'peak MB':>10}")
    rows = []

    def timed(run):
        def repeat(count):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                run()
            torch.cuda.synchronize()
            return time.perf_counter() - start
        repeat(3)
        count = max(3, int(SECONDS / (repeat(3) / 3)) + 1)
        return 1e3 * min(repeat(count) for _ in range(ROUNDS)) / count

    def add(name, ms, data=None, peak=None):
        rate = None if data is None else data / ms / 1e6
        shown = ["-" if v is None else f"{v:.0f}" for v in (rate, peak)]
        print(f"{name:<44} {ms:>10.4f} {shown[0]:>8} {shown[1]:>10}", flush=True)
        rows.append({"name": name, "milliseconds": ms, "gigabytes_per_second": rate, "peak_megabytes": peak})
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2))

    sys.path.insert(0, str(Path(__file__).resolve().parent))
    try:
        from torch_side import LAYERS, Training
    except ImportError as error:
        print(f"no DeepSplines ({error}): its layer and the networks are not measured")
        LAYERS = Training = None

    def both_ways(layer, x, dy):
        source = x.detach().requires_grad_()

        def run():
            source.grad = None
            layer.zero_grad()
            layer(source).backward(dy)
        return run

    def row(name, run, data):
        if arguments.only.search(name):
            add(name, timed(run), data)

    def activations(dtype, suffix):
        x, dy = (torch.randn(SHAPE, dtype=dtype, device="cuda") for _ in range(2))
        size = x.element_size() * x.numel()
        row(f"copy (1024, 64, 32, 32){suffix}", lambda: x.clone(), 2 * size)
        row(f"relu, forward and backward{suffix}", both_ways(torch.nn.ReLU(), x, dy), 5 * size)
        if LAYERS is None:
            return
        layer = LAYERS["bspline"]("conv", SHAPE[1], size=51, range_=4)
        try:
            row(f"spline (51 knots), forward and backward{suffix}", both_ways(layer.cuda(), x, dy), 5 * size)
        except RuntimeError as error:
            print(f"spline (51 knots){suffix}: {error}")

    def step(name, kind, context, channels_last=False, graph=False, compiled=False):
        # What steps before have left counts as memory of this one: objects in cycles, and the workspace of cuBLAS for each stream.
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        training = Training(name, kind, context)
        training.network.cuda()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        training.network.to(memory_format=layout)
        if compiled:
            training.network.compile()
        images = torch.randn((2048, *training.shape[1:]), device="cuda").contiguous(memory_format=layout)
        labels = training.targets(2048).cuda()
        x, targets = images[:128].clone(memory_format=layout), labels[:128].clone()
        position = 0

        def run():
            nonlocal position
            position = (position + 128) % 2048
            replay(images[position:position + 128], labels[position:position + 128])

        def replay(batch, classes):
            if captured is None:
                training.step(batch, classes)
            else:
                x.copy_(batch)
                targets.copy_(classes)
                captured.replay()
        captured = None
        if graph:
            # As PyTorch's notes on CUDA graphs have it: some steps on a stream of their own, then one that is captured.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(4):
                    training.step(x, targets)
            torch.cuda.current_stream().wait_stream(stream)
            for optimizer in training.optimizers:
                optimizer.zero_grad(set_to_none=True)
            # All tensors of the graph are allocated here; replays allocate none.
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                training.step(x, targets)
        run()
        torch.cuda.synchronize()
        if not graph:
            torch.cuda.reset_peak_memory_stats()
        return timed(run), torch.cuda.max_memory_allocated() / 1e6

    def variants():
        """Ways of a step with ReLU: a suffix of the row's name, and arguments of `step`."""
        for compiled in (False,) if arguments.no_compile else (False, True):
            for channels_last in (False, True):
                for graph in (False, True):
                    ways = {"channels_last": channels_last, "compiled": compiled, "graph": graph}
                    if any(ways.values()):
                        yield "".join(f", {way}" for way, on in ways.items() if on), ways

    def autocast():
        return torch.autocast("cuda", dtype=torch.bfloat16)

    for dtype, suffix in ((torch.float32, ""), (torch.bfloat16, ", bf16")):
        activations(dtype, suffix)
    if Training is None:
        return
    def step_row(name, kind, context, suffix, ways):
        title = f"{name} step, batch 128, {kind}{suffix}"
        if not arguments.only.search(title):
            return None
        try:
            milliseconds, peak = step(name, kind, context, **ways)
        # torch.compile has errors of many types.
        except Exception as error:
            print(f"{title}: {type(error).__name__}: {error}")
            return None
        add(title, milliseconds, peak=peak)
        return milliseconds, peak

    for name in ("resnet32", "nin"):
        for context, precision in ((contextlib.nullcontext, ""), (autocast, ", bf16")):
            all_ways = [("", {}), *variants()]
            measured = [step_row(name, "relu", context, precision + suffix, ways) for suffix, ways in all_ways]
            best = min(filter(None, measured), default=None)
            if best:
                add(f"{name} step, batch 128, relu{precision}, best", best[0], peak=best[1])
            step_row(name, "bspline", context, precision, {})


if __name__ == "__main__":
    main()
