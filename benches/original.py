"""The original (DeepSplines, on PyTorch) and this project on identical protocols, in turn: accuracy and time of whole trainings.

    pip install torch deepsplines
    python benches/original.py --data-dir DIR [--only TEXT ...] [--seeds 0 1 2] [--out results/original.csv]

Every case is a config of this project with its overrides; its resolved form, `--print-config`, says both sides what to do: the
same points and images, batch size, epochs, optimisers, learning rates, schedule, weight decay and λ. Networks and splines are
those of the deepsplines package, and their weights and the order of their batches are drawn by PyTorch from the same seed
number. Its training loop takes one optimiser for all or two; here it is two, one for splines, as in this project. What it
evaluates and logs besides is left out: the time is that of steps, and of one evaluation at the end. This project's time is
that of its whole run, evaluations, metrics and checkpoints included.

DIR has area2d/*.csv (the original's points) and mnist/*.gz. A case that is in the output already is not run again; the file is
written after every case, in whole.
"""
import argparse
import csv
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy
import torch
from deepsplines.ds_modules import DeepBSpline, DeepBSplineExplicitLinear, DeepReLUSpline
from deepsplines.ds_modules.dsnn import DSModule
from deepsplines.networks.convnet_mnist import ConvNetMnist
from deepsplines.networks.twoDnet import TwoDNet

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"bspline": "deepBspline", "explicit_linear": "deepBspline_explicit_linear", "relu_spline": "deepReLUspline",
         "relu": "relu"}
COLUMNS = ["code", "experiment", "dataset", "network", "hidden", "activation", "size", "norm", "lambda", "epochs", "seed",
           "threads", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "version"]
KEY = COLUMNS[:11]


def cases(seeds):
    """(experiment, config, overrides)"""
    for seed in seeds:
        for dataset in ["circle", "s_shape"]:
            for kind in ["relu", "bspline"]:
                yield "area2d", "configs/area2d.toml", [
                    f"data.dataset={dataset}", f"activation.kind={kind}", "data.points=original", "train.threads=1",
                    "sparsify.enabled=false", f"seed={seed}"]
        for kind in ["bspline", "explicit_linear", "relu_spline"]:
            yield "fit1d", "configs/fit1d.toml", [f"activation.kind={kind}", "train.threads=1", f"seed={seed}"]
    for seed in seeds:
        for kind in ["relu", "bspline"]:
            yield "mnist", "configs/mnist.toml", [f"activation.kind={kind}", "train.threads=1", "sparsify.enabled=false",
                                                  f"seed={seed}"]


def resolved(experiment, config, overrides):
    command = [str(ROOT / "target/release" / experiment), "--config", config, "--print-config"]
    command += [word for override in overrides for word in ("--set", override)]
    return tomllib.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


class ScalarNet(DSModule):
    """One activation on one number."""

    def __init__(self, kind, size, spline_range, init):
        super().__init__()
        layer = {"bspline": DeepBSpline, "explicit_linear": DeepBSplineExplicitLinear, "relu_spline": DeepReLUSpline}[kind]
        self.activation = layer("fc", 1, size=size, range_=spline_range, init=init)

    def forward(self, x):
        return self.activation(x)


def network(config):
    activation = config["activation"]
    if config["experiment"] == "fit1d":
        return ScalarNet(activation["kind"], activation["size"], activation["range"], activation["init"])
    hidden = config["network"]["hidden"]
    build = TwoDNet if config["experiment"] == "area2d" else ConvNetMnist
    return build(activation_type=NAMES[activation["kind"]], num_classes=2 if hidden else 10,
                 spline_size=activation["size"], spline_range=activation["range"], spline_init=activation["init"],
                 save_memory=False, knot_threshold=0.0, num_hidden_layers=len(hidden), num_hidden_neurons=(hidden or [0])[0])


def idx(path):
    data = gzip.decompress(path.read_bytes())
    dims = [int.from_bytes(data[4 + 4 * d:8 + 4 * d], "big") for d in range(data[3])]
    return torch.from_numpy(numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * len(dims)).reshape(dims).copy())


def data(config, directory):
    """(x, targets) for training and for the test."""
    if config["experiment"] == "mnist":
        def split(name):
            images = idx(directory / "mnist" / f"{name}-images-idx3-ubyte.gz")
            x = (images.float().unsqueeze(1) / 255 - 0.1307) / 0.3081
            return x, idx(directory / "mnist" / f"{name}-labels-idx1-ubyte.gz").long()
        return split("train"), split("t10k")
    if config["experiment"] == "fit1d":
        assert config["data"]["dataset"] == "square"
        n = config["data"]["train_points"]
        return tuple((x.unsqueeze(1), x.square()) for x in (torch.linspace(-1, 1, n), torch.linspace(-1, 1, 4 * n + 1)))
    dataset, side = config["data"]["dataset"], config["data"]["test_grid"]
    rows = numpy.loadtxt(directory / "area2d" / f"{dataset}_train.csv", delimiter=",", skiprows=1)
    rows = torch.from_numpy(rows).float()
    centres = (2 * torch.arange(side) + 1) / side - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    if dataset == "circle":
        inside = x.square() + y.square() < 2 / torch.pi
    else:
        inside = (y.abs() < 0.8) & ((x - 0.4 * torch.sin(-5 * y)).abs() < 0.3)
    grid = torch.stack([x.flatten(), y.flatten()], dim=1)
    return (rows[:, :2].contiguous(), rows[:, 2]), (grid, inside.flatten().float())


def optimizer(config, parameters):
    if config["kind"] == "adam":
        return torch.optim.Adam(parameters, config["lr"])
    return torch.optim.SGD(parameters, config["lr"], momentum=config["momentum"], nesterov=True)


def evaluated(net, loss_of, x, targets):
    loss, correct = 0.0, 0
    with torch.no_grad():
        for batch, target in zip(x.split(4096), targets.split(4096)):
            output = net(batch)
            loss += loss_of(output, target).item() * len(batch)
            answers = output.argmax(1) if target.dtype == torch.int64 else (output.squeeze() > 0.5).float()
            correct += (answers == target).sum().item()
    return loss / len(x), 100 * correct / len(x)


def train(config, directory):
    """What the original makes of a config."""
    torch.manual_seed(config["seed"])
    torch.set_num_threads(config["train"]["threads"])
    (x, targets), test = data(config, directory)
    net = network(config)
    functional = torch.nn.functional
    loss_of = {"area2d": functional.binary_cross_entropy, "mnist": functional.cross_entropy,
               "fit1d": lambda output, target: functional.mse_loss(output.squeeze(1), target)}[config["experiment"]]
    splines, regularization = config["activation"]["kind"] != "relu", config["regularization"]
    optimizers = [optimizer(config["optimizer"]["splines"], list(net.parameters_deepspline()))] if splines else []
    weights = list(net.parameters_no_deepspline()) if splines else list(net.parameters())
    if weights:
        optimizers.append(optimizer(config["optimizer"]["weights"], weights))
    decay, weight = regularization["weight_decay"], regularization["lambda"]
    norm = net.TV2 if regularization["norm"] == "tv2" else net.BV2
    begin = time.perf_counter()
    for epoch in range(config["train"]["epochs"]):
        reached = sum(epoch >= milestone for milestone in config["train"]["milestones"])
        factor = config["train"]["gamma"] ** reached
        rates = [config["optimizer"]["splines"]["lr"]] if splines else []
        for one, rate in zip(optimizers, rates + [config["optimizer"]["weights"]["lr"]]):
            one.param_groups[0]["lr"] = rate * factor
        for batch in torch.randperm(len(x)).split(config["train"]["batch_size"]):
            for one in optimizers:
                one.zero_grad()
            loss_of(net(x[batch]), targets[batch]).backward()
            extra = decay / 2 * net.l2sqsum_weights_biases() if decay > 0 else 0
            if splines:
                extra = extra + weight * norm()
            if torch.is_tensor(extra):
                extra.backward()
            for one in optimizers:
                one.step()
    net.eval()
    train_loss, train_accuracy = evaluated(net, loss_of, x, targets)
    test_loss, test_accuracy = evaluated(net, loss_of, *test)
    seconds = time.perf_counter() - begin
    if config["experiment"] == "fit1d":
        train_accuracy = test_accuracy = ""
    return {"train_loss": train_loss, "train_accuracy": train_accuracy, "test_loss": test_loss,
            "test_accuracy": test_accuracy, "seconds": seconds,
            "version": f"deepsplines {version('deepsplines')} (PyPI), torch {version('torch')}"}


def ours(experiment, config, overrides, directory):
    """What this project makes of it."""
    with tempfile.TemporaryDirectory() as out:
        command = [str(ROOT / "target/release" / experiment), "--config", config, "--out", out, "--overwrite", "--quiet",
                   "--data-dir", str(directory)]
        command += [word for override in overrides for word in ("--set", override)]
        subprocess.run(command, check=True, cwd=ROOT)
        row = next(csv.DictReader(open(Path(out) / "summary.csv", newline="")))
    names = ["train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"]
    return {name: row[name] for name in names} | {"version": row["revision"]}


def text(value):
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write(path, rows):
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def table(rows):
    groups = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ["experiment", "dataset", "network", "hidden", "activation"])
        groups.setdefault(key, {}).setdefault(row["code"], []).append(row)
    for key, sides in groups.items():
        if len(sides) < 2:
            continue
        quantity = "test_accuracy" if sides["ours"][0]["test_accuracy"] != "" else "test_loss"
        median = {code: statistics.median(float(row[quantity]) for row in side) for code, side in sides.items()}
        seconds = {code: statistics.median(float(row["seconds"]) for row in side) for code, side in sides.items()}
        print(f"{' '.join(filter(None, key)):44} {quantity} {median['ours']:.6g} ours, {median['DeepSplines']:.6g} DeepSplines;"
              f"  {seconds['ours']:.2f} s, {seconds['DeepSplines']:.1f} s: {seconds['DeepSplines'] / seconds['ours']:.0f} times"
              f" faster")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "results/original.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only cases whose experiment or overrides have this in them")
    parser.add_argument("--no-build", action="store_true", help="take target/release as it is")
    arguments = parser.parse_args()
    if not arguments.no_build:
        subprocess.run(["cargo", "build", "--release", "-p", "area2d", "-p", "fit1d", "-p", "mnist"], check=True, cwd=ROOT)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(open(arguments.out, newline=""))) if arguments.out.exists() else []
    done = {tuple(row[name] for name in KEY) for row in rows}
    for experiment, path, overrides in cases(arguments.seeds):
        if arguments.only and not any(text in " ".join([experiment, *overrides]) for text in arguments.only):
            continue
        config = resolved(experiment, path, overrides)
        splines = config["activation"]["kind"] != "relu"
        common = {
            "experiment": experiment, "dataset": config["data"]["dataset"], "network": config["network"]["kind"],
            "hidden": "x".join(map(str, config["network"]["hidden"])), "activation": config["activation"]["kind"],
            "size": config["activation"]["size"] if splines else "",
            "norm": config["regularization"]["norm"] if splines else "",
            "lambda": config["regularization"]["lambda"] if splines else "", "epochs": config["train"]["epochs"],
            "seed": config["seed"], "threads": config["train"]["threads"]}
        sides = {"ours": lambda: ours(experiment, path, overrides, arguments.data_dir.resolve()),
                 "DeepSplines": lambda: train(config, arguments.data_dir)}
        for code, side in sides.items():
            row = {"code": code} | common
            if tuple(text(row[name]) for name in KEY) in done:
                continue
            row |= side()
            rows.append({name: text(row[name]) for name in COLUMNS})
            write(arguments.out, rows)
            print({name: v for name, v in rows[-1].items() if v}, file=sys.stderr, flush=True)
    table(rows)


if __name__ == "__main__":
    main()
