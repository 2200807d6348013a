"""This project beside PyTorch and DeepSplines, in turn and in one run: medians and ratios.

    pip install torch deepsplines
    python benches/compare_pytorch.py [--threads 2] [--rounds 7] [--only TEXT ...] [--json FILE] [--markdown FILE]

Each row is a case that two processes know: ours is crates/ds-lab/examples/measure.rs (built here if need be), theirs is
benches/torch_side.py. They take turns, one case at a time, and each answer is the median of the repetitions of 0.3 s; the table
has the medians over the rounds. Memory is the peak of a process that did nothing but three training steps.
The JSON has the rows as {name, ours_ms, theirs_ms, ratio}, ratio = ours / theirs; rows of memory are in MB.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [(128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8)]


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


def cases():
    """(name, case of ours, case of theirs, the most rounds, whether it is about memory)."""
    for shape in SHAPES:
        words = " ".join(map(str, shape))
        for kind in ["relu", "bspline", "explicit_linear", "relu_spline"]:
            # DeepReLUSpline takes most of a second and gigabytes on the largest shape.
            most = 3 if kind == "relu_spline" else 99
            yield f"activation fwd+bwd, {kind}, {shape}", f"activation {kind} {words}", None, most, False
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
    yield "ResNet32, 1000 images evaluated, splines", "evaluate resnet32 bspline", None, 5, False
    yield "MNIST epoch: splines / DeepSplines", "epoch bspline", None, 3, False
    yield "MNIST epoch: splines / PyTorch ReLU", "epoch bspline", "epoch relu", 3, False
    for network in ["resnet32", "nin"]:
        for kind in ["relu", "bspline"]:
            yield f"peak memory in MB, {network}, {kind}", f"step {network} {kind}", None, 1, True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[""], help="rows whose name contains one of these texts")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "ds-lab", "--example", "measure"], cwd=ROOT,
                   check=True)

    def start_ours():
        return Side([ROOT / "target/release/examples/measure"], {"RAYON_NUM_THREADS": str(arguments.threads)})

    def start_theirs():
        return Side([sys.executable, ROOT / "benches/torch_side.py", str(arguments.threads)],
                    {"OMP_NUM_THREADS": str(arguments.threads)})

    ours, theirs = start_ours(), start_theirs()
    rows = []
    for name, mine, other, most, memory in cases():
        if not any(text in name for text in arguments.only):
            continue
        other = other or mine
        if memory:
            pair = []
            for side, case in [(start_ours(), mine), (start_theirs(), other)]:
                side(case)
                pair.append(side("memory"))
                side.close()
            pairs = [pair]
        else:
            ours(mine), theirs(other)
            pairs = []
            for _ in range(min(arguments.rounds, most)):
                # A pause, so that the threads of the one do not spin while the other is measured.
                time.sleep(0.05)
                first = ours(mine)
                time.sleep(0.05)
                pairs.append((first, theirs(other)))
        a, b = (statistics.median(side) for side in zip(*pairs))
        rows.append({"name": name, "ours_ms": a, "theirs_ms": b, "ratio": a / b})
        print(f"{name:62} ours {a:10.3f}   theirs {b:10.3f}   ratio {a / b:7.4f}   {b / a:6.1f} times", flush=True)
    ours.close(), theirs.close()
    by_name = {row["name"]: row["ours_ms"] for row in rows}
    for title, top, bottom in [
        ("ours, ResNet32 step: splines / ReLU", "ResNet32 step, batch 128: splines / DeepSplines",
         "ResNet32 step, batch 128: ReLU / PyTorch ReLU"),
        ("ours, activation fwd+bwd: bspline / relu", f"activation fwd+bwd, bspline, {SHAPES[0]}",
         f"activation fwd+bwd, relu, {SHAPES[0]}"),
    ]:
        if top in by_name and bottom in by_name:
            print(f"{title}: {by_name[top] / by_name[bottom]:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.markdown:
        lines = ["| case | ours | theirs | ours / theirs |", "| --- | ---: | ---: | ---: |"]
        lines += [f"| {r['name']} | {r['ours_ms']:.3f} | {r['theirs_ms']:.3f} | {r['ratio']:.3f} |" for r in rows]
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
