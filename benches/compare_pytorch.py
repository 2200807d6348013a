"""This project beside PyTorch and DeepSplines, in turn and in one run: medians and ratios.

    pip install torch deepsplines
    python benches/compare_pytorch.py [--threads 2] [--rounds 7] [--long] [--only TEXT ...] [--json FILE] [--markdown FILE]

Each row is a case that two processes know: ours is crates/ds-lab/examples/measure.rs (built here if need be), theirs is
benches/torch_side.py. They take turns, one case at a time, and each answer is the median of the repetitions of 0.3 s; the table
has the medians over the rounds, and its files are written after every row. Memory is the peak of a process that did nothing but
three training steps.
The JSON has the rows as {name, ours_ms, theirs_ms, ratio}, ratio = ours / theirs; rows of memory are in MB. Rows whose work
can be counted have the floor of this machine beside them: the bytes that must go through memory over the rate of a copy of
such arrays (bytes_ms), and the multiplications and additions of convolutions over the rate at which all threads do them with
nothing to load (flops_ms), both the best of some tries at the beginning of the same run.
"""
import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Floats: 8 MB and 128 MB.
COPIES = [2 << 20, 32 << 20]
OPERATIONS = 1 << 30
OURS = "ours: "
SHAPES = [(128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8)]


def processor():
    """The processor's name, and its family and model, which tell its generation where the name does not."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        known = {key.strip(): value.strip() for key, value in lines.items()}
        return f"{known['model name']} (family {known['cpu family']}, model {known['model']})"
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()


def torch_version():
    return importlib.metadata.version("torch")


class Side:
    """A process that answers each line with a number."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})

    def __call__(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.process.args} gave up at `{line}`")
        return float(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build_measure():
    """Our side's binary, built if need be."""
    subprocess.run(["cargo", "build", "--release", "--quiet", "--workspace", "--example", "measure"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/measure"


def resnet32():
    """(inputs, outputs, kernel, output side) of each convolution, the first layer first."""
    layers, inputs = [(3, 16, 3, 32)], 16
    for outputs, side in [(16, 32), (32, 16), (64, 8)]:
        for block in range(5):
            layers += [(inputs, outputs, 3, side), (outputs, outputs, 3, side)]
            if inputs != outputs:
                layers.append((inputs, outputs, 1, side))
            inputs = outputs
    return layers


NIN = [(3, 192, 5, 32), (192, 160, 1, 32), (160, 96, 1, 32), (96, 192, 5, 16), (192, 192, 1, 16), (192, 192, 1, 16),
       (192, 192, 3, 8), (192, 192, 1, 8), (192, 10, 1, 8)]
CONVNET = [(1, 2, 5, 24), (2, 2, 5, 8)]
# Passes over each map that a step cannot do without. Forward: the convolution reads and writes, the activation too, and with
# batch norm the statistics read. Backward: x, ∂y and ∂x of the activation, with batch norm x and ∂y once more; the
# convolution reads ∂y twice and its input once, and writes ∂x. An evaluation has the first four.
LAYERS = {"resnet32": (resnet32(), 14), "nin": (NIN, 11), "convnet": (CONVNET, 11)}
EVALUATION_PASSES = 4


def work(line):
    """(floats that go through memory, operations) of a case; None where they are not what it costs."""
    kind, *words = line.split()
    if kind == "activation":
        n, c, h, w = map(int, words[1:])
        return 5 * n * c * h * w, 0
    if kind == "convolution":
        n, c, h = map(int, words[1:])
        return 2 * n * c * h * h, 2 * 9 * n * c * c * h * h
    if words[0] not in LAYERS:
        return None
    layers, passes = LAYERS[words[0]]
    map_floats = sum(o * side * side for _, o, _, side in layers)
    forward = [2 * i * o * k * k * side * side for i, o, k, side in layers]
    # Of one image each; the images need no gradient.
    trained = passes * map_floats, 3 * sum(forward) - forward[0]
    evaluated = EVALUATION_PASSES * map_floats, sum(forward)
    count = {"convnet": 60_000, "resnet32": 50_000}.get(words[0])
    images = {"step": (64 if words[0] == "convnet" else 128, 0), "evaluate": (0, 1000), "epoch": (count, 10_000)}[kind]
    return tuple(images[0] * t + images[1] * e for t, e in zip(trained, evaluated))


def cases(long):
    """(name, case of ours, case of theirs, the most rounds, whether it is about memory). A case of theirs that begins with OURS
    is one of ours, too."""
    for shape in SHAPES:
        words = " ".join(map(str, shape))
        for kind in ["relu", "bspline", "explicit_linear", "relu_spline"]:
            # DeepReLUSpline takes most of a second and gigabytes on the largest shape.
            most = 3 if kind == "relu_spline" else 99
            yield f"activation fwd+bwd, {kind}, {shape}", f"activation {kind} {words}", None, most, False
        for kind in ["bspline", "relu_spline"]:
            yield f"activation fwd+bwd, {kind} / our relu, {shape}", f"activation {kind} {words}", \
                f"{OURS}activation relu {words}", 99, False
    for direction in ["forward", "input", "weight"]:
        for n, c, h, _ in SHAPES:
            name = direction if direction == "forward" else f"{direction} gradient"
            yield f"convolution 3×3, {name}, {(n, c, h, h)}", f"convolution {direction} {n} {c} {h}", None, 99, False
    for title, network, most in [("ResNet32 step, batch 128", "resnet32", 99), ("NiN step, batch 128", "nin", 3),
                                 ("MNIST ConvNet step, batch 64", "convnet", 99),
                                 ("2-4-4-1 step, batch 10", "area", 99)]:
        yield f"{title}: ReLU / PyTorch ReLU", f"step {network} relu", None, most, False
        yield f"{title}: splines / DeepSplines", f"step {network} bspline", None, most, False
        yield f"{title}: splines / PyTorch ReLU", f"step {network} bspline", f"step {network} relu", most, False
        yield f"{title}: splines / our ReLU", f"step {network} bspline", f"{OURS}step {network} relu", most, False
    yield "ResNet32, 1000 images evaluated, splines", "evaluate resnet32 bspline", None, 5, False
    yield "MNIST epoch: splines / DeepSplines", "epoch convnet bspline", None, 3, False
    yield "MNIST epoch: splines / PyTorch ReLU", "epoch convnet bspline", "epoch convnet relu", 3, False
    for network in ["resnet32", "nin"]:
        for kind in ["relu", "bspline"]:
            yield f"peak memory in MB, {network}, {kind}", f"step {network} {kind}", None, 1, True
    if long:
        yield "CIFAR-10 epoch: splines / PyTorch ReLU", "epoch resnet32 bspline", "epoch resnet32 relu", 1, False
        yield "CIFAR-10 epoch: splines / DeepSplines", "epoch resnet32 bspline", None, 1, False


def write(arguments, machine, rows):
    """What there is so far, so that nothing is lost if the run is stopped."""
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.markdown:
        lines = [machine + ".", "", "| case | ours | theirs | ours / theirs | bytes / bandwidth | FLOPs / peak |",
                 "| --- | ---: | ---: | ---: | ---: | ---: |"]
        for r in rows:
            floor = " | ".join(f"{r[key]:.2f}" if key in r else "" for key in ["bytes_ms", "flops_ms"])
            lines.append(f"| {r['name']} | {r['ours_ms']:.3f} | {r['theirs_ms']:.3f} | {r['ratio']:.3f} | {floor} |")
        arguments.markdown.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--long", action="store_true", help="also whole epochs of ResNet32: half an hour more")
    parser.add_argument("--only", nargs="*", default=[""], help="rows whose name contains one of these texts")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    measure = build_measure()

    def start_ours():
        return Side([measure], {"RAYON_NUM_THREADS": str(arguments.threads)})

    def start_theirs():
        return Side([sys.executable, ROOT / "benches/torch_side.py", str(arguments.threads)],
                    {"OMP_NUM_THREADS": str(arguments.threads)})

    # Two processes of ours, so that cases of both can take turns.
    ours, ours_too, theirs = start_ours(), start_ours(), start_theirs()
    # In GB/s (read and written) for arrays within the last-level cache and beyond, and in Gflop/s. A floor is the best there is.
    copy = {count: 8 * count / min(ours(f"copy {count}") for _ in range(9)) / 1e6 for count in COPIES}
    peak = arguments.threads * OPERATIONS / min(ours(f"multiply_add {OPERATIONS}") for _ in range(9)) / 1e6
    machine = (f"{processor()}, {arguments.threads} threads, PyTorch {torch_version()}; "
               + ", ".join(f"a copy of {count * 4 >> 20} MB: {rate:.0f} GB/s" for count, rate in copy.items())
               + f"; multiplications and additions: {peak:.0f} Gflop/s")
    print(machine, flush=True)
    rows = []
    for name, mine, other, most, memory in cases(arguments.long):
        if not any(text in name for text in arguments.only):
            continue
        other, side = other or mine, theirs
        if other.startswith(OURS):
            other, side = other.removeprefix(OURS), ours_too
        if memory:
            pair = []
            for one, case in [(start_ours(), mine), (start_theirs(), other)]:
                one(case)
                pair.append(one("memory"))
                one.close()
            pairs = [pair]
        else:
            if not mine.startswith("epoch"):
                ours(mine), side(other)
            pairs = []
            for _ in range(min(arguments.rounds, most)):
                # A pause, so that the threads of the one do not spin while the other is measured.
                time.sleep(0.05)
                first = ours(mine)
                time.sleep(0.05)
                pairs.append((first, side(other)))
        a, b = (statistics.median(times) for times in zip(*pairs))
        row = {"name": name, "ours_ms": a, "theirs_ms": b, "ratio": a / b}
        if not memory and (counted := work(mine)):
            floats, operations = counted
            # A row of the activation goes over a few arrays of its size, a step over many.
            rate = copy[COPIES[0]] if mine.startswith(("activation", "convolution")) else copy[COPIES[1]]
            row |= {"bytes_ms": 4 * floats / rate / 1e6, "flops_ms": operations / peak / 1e6}
        rows.append(row)
        write(arguments, machine, rows)
        print(f"{name:62} ours {a:10.3f}   theirs {b:10.3f}   ratio {a / b:7.4f}   {b / a:6.1f} times", flush=True)
    ours.close(), ours_too.close(), theirs.close()


if __name__ == "__main__":
    main()
