#!/usr/bin/env python3
"""Checks exported networks against other programs, and measures what a spline costs at inference.

    pip install onnxruntime onnx torch deepsplines safetensors
    cargo build --release -p reproduce
    python benches/exchange.py [RUN ...] [--data-dir DIR] [--time]

Each RUN is the directory of a run with its checkpoint; without any, small ones are trained for a moment first. For every run, and
for its sparsified network if there is one, 256 test samples go through onnxruntime and, where DeepSplines has such a network,
through its class, loaded with `strict=True`; both are compared with ours.

With --time, images/s of ResNet32 in evaluation: of the runs with ReLU and with splines among those that are given or trained, and of
the sparsified network. Ours is `cargo build --release -p ds-lab --example measure`; onnxruntime and PyTorch have as many threads. All
take turns, and the median of the rounds counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRAINED = {
    "resnet32": ("configs/quick/resnet.toml", ["--data", "sample"], []),
    "resnet32-relu": ("configs/quick/resnet.toml", ["--data", "sample"], ["activation.kind=relu"]),
    "nin": ("configs/nin.toml", ["--data", "sample"], ["train.max_train_images=256", "train.max_test_images=256"]),
    "convnet": ("configs/mnist.toml", [], ["train.max_train_images=6000"]),
    "area": ("configs/area2d.toml", [], ["train.epochs=50"]),
    "lipschitz": ("configs/mnist-lipschitz.toml", [], ["train.max_train_images=6000", "sparsify.enabled=true"]),
    "lipschitz_conv": (
        "configs/mnist-lipschitz.toml",
        [],
        [
            "network.kind=lipschitz_conv",
            "network.hidden=[4,32]",
            "train.max_train_images=1000",
            "train.max_test_images=500",
            "sparsify.enabled=true",
        ],
    ),
}


def program(binary, *arguments):
    """Runs the program and returns what it prints."""
    done = subprocess.run([binary, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join([binary, *arguments])}: {done.stderr}")
    return done.stdout


def trained(binary, folder, data, only):
    """Small runs of every kind of network, sparsified."""
    for name, (config, source, keys) in TRAINED.items():
        if only and name not in only:
            continue
        out = os.path.join(folder, name)
        keys = ["train.epochs=1", "train.milestones=[]", *keys]
        settings = [word for key in keys for word in ("--set", key)]
        if not source:
            source = data
        program(binary, "train", "--config", config, "--out", out, "--quiet", *source, *settings)
        yield out, source


def session(path, threads=0):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def original(config, state):
    """The class of DeepSplines for a run's config, with its parameters."""
    from deepsplines.networks.convnet_mnist import ConvNetMnist
    from deepsplines.networks.nin_cifar import NiNCifar
    from deepsplines.networks.resnet_cifar import ResNet32Cifar
    from deepsplines.networks.twoDnet import TwoDNet

    classes = {"convnet": ConvNetMnist, "nin": NiNCifar, "resnet32": ResNet32Cifar, "area": TwoDNet}
    kinds = {"bspline": "deepBspline", "explicit_linear": "deepBspline_explicit_linear", "relu_spline": "deepReLUspline"}
    activation, network = config["activation"], config["network"]
    hidden = network["hidden"]
    settings = {
        "activation_type": kinds.get(activation["kind"], activation["kind"]),
        "spline_size": activation["size"],
        "spline_range": activation.get("range", 0.5 * (activation["size"] - 1) * activation.get("step", 0)),
        "spline_init": "leaky_relu",
        "save_memory": False,
        "knot_threshold": 0.0,
        "num_classes": 100 if config["data"]["dataset"] == "cifar100" else 10,
        "num_hidden_layers": len(hidden),
        "num_hidden_neurons": hidden[0] if hidden else 0,
        "net": network["kind"],
        "dataset_name": config["data"]["dataset"],
        "device": "cpu",
        "verbose": False,
    }
    settings["spline_params"] = {"size": settings["spline_size"], "range_": settings["spline_range"], "init": "leaky_relu"}
    net = classes[network["kind"]](**settings)
    net.load_state_dict(state, strict=True)
    return net.eval()


def compared(name, ours, theirs, relative=1e-4):
    difference, largest = np.abs(ours - theirs).max(), np.abs(ours).max()
    same = (ours.argmax(1) == theirs.argmax(1)).mean() if ours.shape[1] > 1 else ((ours > 0) == (theirs > 0)).mean()
    print(
        f"  {name:<12} largest difference {difference:.1e}, over the largest output {difference / largest:.1e}, "
        f"same class {100 * same:.2f} %",
        flush=True,
    )
    return difference <= 1e-4 and difference <= relative * largest and same == 1.0


def check(binary, run, data, folder):
    """Compares a run's networks; whether all agree."""
    config = tomllib.load(open(os.path.join(run, "config.toml"), "rb"))
    agrees = True
    for pruned in [[], ["--sparsified"]]:
        if pruned and not os.path.exists(os.path.join(run, "sparsified.safetensors")):
            continue
        print(f"{os.path.basename(run.rstrip('/'))}{' sparsified' if pruned else ''}:", flush=True)
        model = os.path.join(folder, "model.onnx")
        export = ["export", run, "--overwrite", *pruned]
        program(binary, *export, "--format", "onnx", "--out", model, "--samples", "256", *data)
        samples = load_file(os.path.join(folder, "model.samples.safetensors"))
        x, ours = samples["input"], samples["output"].numpy()
        onnx.checker.check_model(onnx.load(model), full_check=True)
        agrees &= compared("onnxruntime", ours, session(model).run(None, {"input": x.numpy()})[0])
        one = session(model).run(None, {"input": x[:1].numpy()})[0]
        assert one.shape == (1, ours.shape[1])
        kinds = ["bspline", "explicit_linear", "relu_spline", "relu", "leaky_relu"]
        if config["network"]["kind"].startswith("lipschitz") or config["activation"]["kind"] not in kinds:
            continue
        state = os.path.join(folder, "state.safetensors")
        program(binary, *export, "--format", "torch", "--out", state)
        with torch.no_grad():
            y = original(config, load_file(state))(x).numpy()
        if config["network"]["kind"] == "area":
            # The class ends with a sigmoid.
            y, ours = y.reshape(-1, 1) - 0.5, 1 / (1 + np.exp(-ours.astype(np.float64))) - 0.5
        agrees &= compared("DeepSplines", ours, y, 1e-5)
        with safe_open(state, "pt") as file:
            assert {"config_md5", "revision", "seed"} <= file.metadata().keys()
    return agrees


def images_per_second(evaluate, x):
    start = time.perf_counter()
    evaluate(x)
    return len(x) / (time.perf_counter() - start)


def times(binary, runs, folder, rounds, threads, batch):
    """A table of ResNet32's images/s in evaluation."""
    measure = subprocess.Popen(
        [os.path.join(os.path.dirname(binary), "examples/measure")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "RAYON_NUM_THREADS": str(threads)},
    )

    def ours(kind):
        measure.stdin.write(f"evaluate resnet32 {kind}\n")
        measure.stdin.flush()
        return 1000 / (float(measure.stdout.readline()) / 1000)

    torch.set_num_threads(threads)
    x = torch.randn(batch, 3, 32, 32)
    cases = {}
    for run in runs:
        config = tomllib.load(open(os.path.join(run, "config.toml"), "rb"))
        if config["network"]["kind"] != "resnet32":
            continue
        kind = config["activation"]["kind"]
        for pruned in [[], ["--sparsified"]]:
            if pruned and not os.path.exists(os.path.join(run, "sparsified.safetensors")):
                continue
            name = kind + (" sparsified" if pruned else "")
            model, state = (os.path.join(folder, f"{name}.{end}".replace(" ", "-")) for end in ["onnx", "safetensors"])
            program(binary, "export", run, *pruned, "--format", "onnx", "--out", model)
            program(binary, "export", run, *pruned, "--format", "torch", "--out", state)
            net = original(config, load_file(state))
            runtime = session(model, threads)
            cases[name, "ours"] = lambda kind=kind: ours(kind)
            cases[name, "onnxruntime"] = lambda runtime=runtime: images_per_second(
                lambda x: runtime.run(None, {"input": x.numpy()}), x)
            cases[name, "PyTorch"] = lambda net=net: images_per_second(net, x)
    results = {case: [] for case in cases}
    with torch.no_grad():
        for measured in cases.values():
            measured()
        for _ in range(rounds):
            for case, measured in cases.items():
                results[case].append(measured())
    measure.stdin.close()
    medians = {case: statistics.median(all) for case, all in results.items()}
    has_relu = ("relu", "ours") in medians
    beside = " (time / time with ReLU)" if has_relu else ""
    print(f"ResNet32, images/s in evaluation, {threads} threads, median of {rounds} rounds{beside}")

    def cell(name, by):
        rate = medians[name, by]
        return f"{rate:8.1f} ({medians['relu', by] / rate:.2f})" if has_relu else f"{rate:8.1f}"

    for name in dict.fromkeys(name for name, _ in cases):
        cells = [cell(name, by) for by in ["ours", "onnxruntime", "PyTorch"]]
        print(f"| {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--data-dir")
    parser.add_argument("--only", choices=TRAINED, action="append", help="of the networks that are trained")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64, help="images at a time of onnxruntime and PyTorch")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--binary", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release/reproduce"))
    arguments = parser.parse_args()
    data = ["--data-dir", os.path.abspath(arguments.data_dir)] if arguments.data_dir else []
    with tempfile.TemporaryDirectory() as folder:
        runs = [(os.path.abspath(run), data) for run in arguments.runs]
        runs = runs or list(trained(arguments.binary, folder, data, arguments.only))
        if arguments.time:
            times(arguments.binary, [run for run, _ in runs], folder, arguments.rounds, arguments.threads, arguments.batch)
            return
        results = [check(arguments.binary, run, source, folder) for run, source in runs]
    sys.exit(0 if all(results) else "some outputs differ")


if __name__ == "__main__":
    main()
