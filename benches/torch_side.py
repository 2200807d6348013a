"""PyTorch's and DeepSplines' side of compare_pytorch.py: the cases of crates/ds-lab/examples/measure.rs, line by line.

KIND is bspline, explicit_linear or relu_spline for the layers of DeepSplines, and relu for plain PyTorch: torch.nn.ReLU,
and torch.optim.SGD or Adam with their own weight decay. Networks are those of the deepsplines package. A step with splines
is what its training loop does: backward of the loss, backward of weight decay plus TV², two optimisers.
"""
import contextlib
import resource
import statistics
import sys
import time

import torch
from deepsplines.ds_modules import DeepBSpline, DeepBSplineExplicitLinear, DeepReLUSpline
from deepsplines.networks.convnet_mnist import ConvNetMnist
from deepsplines.networks.nin_cifar import NiNCifar
from deepsplines.networks.resnet_cifar import ResNet32Cifar
from deepsplines.networks.twoDnet import TwoDNet

LAYERS = {"bspline": DeepBSpline, "explicit_linear": DeepBSplineExplicitLinear, "relu_spline": DeepReLUSpline}
NAMES = {"bspline": "deepBspline", "explicit_linear": "deepBspline_explicit_linear", "relu_spline": "deepReLUspline",
         "relu": "relu"}
NETWORKS = {"resnet32": (ResNet32Cifar, (128, 3, 32, 32)), "nin": (NiNCifar, (128, 3, 32, 32)),
            "convnet": (ConvNetMnist, (64, 1, 28, 28)), "area": (TwoDNet, (10, 2))}


# As in measure.rs.
REPETITIONS, SECONDS = 3, 0.3


def activation(kind, *shape):
    layer = torch.nn.ReLU() if kind == "relu" else LAYERS[kind]("conv", shape[1], size=51, range_=4)
    x, gradient = torch.randn(shape).requires_grad_(), torch.randn(shape)

    def run():
        x.grad = None
        layer.zero_grad()
        layer(x).backward(gradient)
    return run


def convolution(direction, images, channels, side):
    x, dy = torch.randn(images, channels, side, side), torch.randn(images, channels, side, side)
    weight = torch.randn(channels, channels, 3, 3)
    if direction == "forward":
        def run():
            with torch.no_grad():
                torch.nn.functional.conv2d(x, weight, padding=1)
        return run
    mask = (direction == "input", direction == "weight", False)
    return lambda: torch.ops.aten.convolution_backward(
        dy, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)


class Training:
    """A network with its optimisers; calling it with a batch is one step, forward pass and loss in a context."""

    def __init__(self, name, kind, context=contextlib.nullcontext):
        self.context = context
        build, self.shape = NETWORKS[name]
        area = name == "area"
        size, spline_range = (21, 1.0) if area else (51, 4.0)
        self.network = build(
            activation_type=NAMES[kind], num_classes=2 if area else 10, spline_size=size, spline_range=spline_range,
            spline_init="leaky_relu", save_memory=False, knot_threshold=0.0, num_hidden_layers=2,
            num_hidden_neurons=4)
        self.network.train()
        self.decay, self.weight = {"resnet32": (5e-4, 1e-4), "nin": (5e-4, 1e-4)}.get(name, (1e-5, 1e-5))
        self.area, self.splines = area, kind != "relu"
        # Rates so low that random images do not make the loss diverge.
        plain_decay = 0.0 if self.splines else self.decay
        weights = self.network.parameters_no_deepspline() if self.splines else self.network.parameters()
        if name in ("resnet32", "nin"):
            self.optimizers = [torch.optim.SGD(weights, 1e-4, momentum=0.9, nesterov=True, weight_decay=plain_decay)]
        else:
            self.optimizers = [torch.optim.Adam(weights, 1e-5, weight_decay=plain_decay)]
        if self.splines:
            self.optimizers.append(torch.optim.Adam(self.network.parameters_deepspline(), 1e-6))

    def targets(self, count):
        return torch.arange(count) % 2 * 1.0 if self.area else torch.arange(count) % 10

    def __call__(self, x, targets):
        return self.step(x, targets).item()

    def step(self, x, targets):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with self.context():
            output = self.network(x)
            if self.area:
                loss = torch.nn.functional.binary_cross_entropy(output, targets)
            else:
                loss = torch.nn.functional.cross_entropy(output, targets)
        loss.backward()
        if self.splines:
            extra = self.decay / 2 * self.network.l2sqsum_weights_biases() + self.weight * self.network.TV2()
            extra.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss


def training_step(name, kind):
    training = Training(name, kind)
    x, targets = torch.randn(training.shape), training.targets(training.shape[0])
    return lambda: training(x, targets)


def evaluated(network, x, targets, size):
    network.eval()
    with torch.no_grad():
        for batch, target in zip(x.split(size), targets.split(size)):
            torch.nn.functional.cross_entropy(network(batch), target).item()
    network.train()


def evaluation(name, kind):
    training = Training(name, kind)
    x, targets = torch.randn(1000, *training.shape[1:]), training.targets(1000)
    return lambda: evaluated(training.network, x, targets, 250)


def epoch(name, kind):
    """Images that are in memory as they are needed: no time for reading, cropping or flipping."""
    training = Training(name, kind)
    size, *image = training.shape
    count = 60_000 if name == "convnet" else 50_000
    x, test = torch.randn(count, *image), torch.randn(10_000, *image)
    targets, test_targets = training.targets(count), training.targets(10_000)

    def run():
        for batch, target in zip(x.split(size), targets.split(size)):
            training(batch, target)
        evaluated(training.network, test, test_targets, 250)
    return run


def main():
    torch.set_num_threads(int(sys.argv[1]))
    cases = {"activation": activation, "convolution": convolution, "step": training_step, "evaluate": evaluation,
             "epoch": epoch}
    current, run = None, None
    for line in map(str.strip, sys.stdin):
        if line == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, flush=True)
            continue
        if line != current:
            run = None
            name, *words = line.split()
            run, current = cases[name](*(int(w) if w.isdigit() else w for w in words)), line
            if not line.startswith("epoch"):
                run()
        times = []
        begin = time.perf_counter()
        while not times or (not line.startswith("epoch")
                            and (len(times) < REPETITIONS or time.perf_counter() - begin < SECONDS)):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        print(statistics.median(times), flush=True)


if __name__ == "__main__":
    main()
