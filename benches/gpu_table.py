"""One table of what gpu_bench.rs and pytorch_gpu.py measured on the same card.

    python benches/gpu_table.py BENCH.json PYTORCH.json ...    # as gpu_all.sh leaves them in its folder

Of a row in several files of PyTorch the fastest counts: each has the best of its own ways.

Below the rows stand ratios between rows: splines beside ReLU, ours beside PyTorch with ReLU at its best, and what the
spline's kernels reach of the rate of a copy.
"""
import json
import sys
from pathlib import Path


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    ours, *others = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
    ours, theirs = {row["name"]: row for row in ours}, {}
    for row in (row for rows in others for row in rows):
        theirs[row["name"]] = min(row, theirs.get(row["name"], row), key=lambda row: row["milliseconds"])

    def shown(row, key, digits):
        value = row.get(key) if row else None
        return "" if value is None else f"{value:.{digits}f}"

    print("| case | ours, ms | host's part, ms | PyTorch or DeepSplines, ms | PyTorch's best, ms | ours / theirs, best | ours, peak MB "
          "| theirs, peak MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, row in ours.items():
        plain, best = theirs.get(name), theirs.get(f"{name}, best")
        other = best or plain
        ratio = f"{row['milliseconds'] / other['milliseconds']:.3f}" if other else ""
        cells = [name, shown(row, "milliseconds", 4), shown(row, "host_milliseconds", 3), shown(plain, "milliseconds", 4),
                 shown(best, "milliseconds", 4), ratio, shown(row, "peak_megabytes", 0), shown(other, "peak_megabytes", 0)]
        print("| " + " | ".join(cells) + " |")

    print("\n| ratio | |\n| --- | ---: |")

    def ratio(label, above, below, key="milliseconds"):
        if above and below and above.get(key) and below.get(key):
            print(f"| {label} | {above[key] / below[key]:.3f} |")

    for suffix in ("", ", bf16"):
        spline, relu = (ours.get(f"{name}, forward and backward{suffix}") for name in ("spline (51 knots)", "relu"))
        ratio(f"spline / ReLU, forward and backward{suffix}", spline, relu)
        copy = ours.get(f"copy (1024, 64, 32, 32){suffix}")
        ratio(f"rate of the spline / rate of a copy{suffix}", spline, copy, "gigabytes_per_second")
        for network in ("resnet32", "nin"):
            spline, relu = (f"{network} step, batch 128, {kind}{suffix}" for kind in ("bspline", "relu"))
            ratio(f"{network} step, splines / ReLU{suffix}", ours.get(spline), ours.get(relu))
            best = theirs.get(f"{relu}, best")
            ratio(f"{network} step, splines / PyTorch with ReLU, best{suffix}", ours.get(spline), best or theirs.get(relu))
            ratio(f"{network} step, splines / PyTorch with ReLU, plain{suffix}", ours.get(spline), theirs.get(relu))
            ratio(f"{network} peak memory, splines / ReLU{suffix}", ours.get(spline), ours.get(relu), "peak_megabytes")


if __name__ == "__main__":
    main()
