"""Times the spline activation of this project and DeepBSpline of DeepSplines in turn, in one run.

    pip install torch deepsplines
    python benches/activation.py [--threads 2] [--rounds 15] [--json FILE]

Forward and backward of K = 51 splines on (128, 16, 32, 32), float32 on the CPU. Ours runs in
`target/release/examples/time_activation` (built with `cargo build --release -p ds-core --examples`, which this script
does if need be). Both sides take turns; the table has the medians over the rounds and their ratio.
"""
import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import torch
from deepsplines.ds_modules import DeepBSpline, DeepBSplineExplicitLinear, DeepReLUSpline

ROOT = Path(__file__).resolve().parent.parent


def ours(process, kind, shape):
    """One round of ours, in ms: the median of some repetitions inside the process."""
    process.stdin.write(f"{kind} {' '.join(map(str, shape))}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def theirs(layer, shape, repetitions=3):
    """One round of PyTorch, in ms."""
    x = torch.randn(shape).requires_grad_()
    gradient = torch.randn(shape)
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        layer(x).backward(gradient)
        times.append(1e3 * (time.perf_counter() - start))
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows as {name, ours_ms, theirs_ms, ratio}")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "-p", "ds-core", "--example", "time_activation"],
        cwd=ROOT, check=True,
    )
    process = subprocess.Popen(
        [ROOT / "target/release/examples/time_activation"],
        env={**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    shapes = [(128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8)]
    rows = []
    for shape in shapes:
        layers = {
            "bspline": DeepBSpline("conv", shape[1], size=51, range_=4),
            "explicit_linear": DeepBSplineExplicitLinear("conv", shape[1], size=51, range_=4),
            "relu_spline": DeepReLUSpline("conv", shape[1], size=51, range_=4),
            "relu": torch.nn.ReLU(),
        }
        for kind, layer in layers.items():
            # DeepReLUSpline takes seconds and gigabytes on the largest shape.
            rounds = 3 if kind == "relu_spline" else arguments.rounds
            ours(process, kind, shape), theirs(layer, shape, 1)
            pairs = [(ours(process, kind, shape), theirs(layer, shape)) for _ in range(rounds)]
            mine, other = (statistics.median(side) for side in zip(*pairs))
            rows.append({"name": f"{kind} {shape}", "ours_ms": mine, "theirs_ms": other, "ratio": mine / other})
            print(f"{rows[-1]['name']:40} ours {mine:8.3f} ms   theirs {other:9.3f} ms   {other / mine:6.1f} times", flush=True)
    process.stdin.close()
    print(f"{arguments.threads} threads, medians of {arguments.rounds} rounds in turn, torch {torch.__version__}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
