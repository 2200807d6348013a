"""The kernels of one training step, with their launches and times, by Nsight Compute.

    python benches/gpu_kernels.py GPU_BENCH [--only ROW]    # profiles a row of the binary gpu_bench; `just gpu-bench` does it last
    python benches/gpu_kernels.py --csv FILE                # a table from what ncu wrote with --csv and the metric below

A step's launches are the shortest sequence of kernels that stands --repeated times at the end. Times are those of a profiler, which runs
one kernel after the other: their sum is more than a step takes as a CUDA graph. Without ncu or a GPU it says so.
"""
import argparse
import csv
import re
import shutil
import subprocess
import sys
from collections import defaultdict

METRIC = "gpu__time_duration.sum"
ROW = "resnet32 step, batch 128, bspline"
# The first of these steps load kernels, measure algorithms and capture a graph; the last REPEATED are alike.
STEPS, REPEATED = 9, 4
NANOSECONDS = {"ns": 1.0, "nsecond": 1.0, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6}


def launches(lines):
    """(kernel, nanoseconds) of each launch in ncu's CSV, before which other lines may stand."""
    lines = list(lines)
    start = next((k for k, line in enumerate(lines) if line.startswith('"ID"')), None)
    rows = csv.DictReader(lines[start:]) if start is not None else []
    return [
        (row["Kernel Name"], float(row["Metric Value"].replace(",", "")) * NANOSECONDS[row["Metric Unit"]])
        for row in rows
        if row["Metric Name"] == METRIC
    ]


def step_of(names, repeated):
    """The length of the shortest sequence that stands `repeated` times at the end; None without one. Layers repeat within a step, too: a
    step has all kernels that the second half of the launches has."""
    kernels = set(names[len(names) // 2 :])
    for length in range(1, len(names) // repeated + 1):
        last = names[-length * repeated :]
        if last[length:] == last[:-length] and kernels == set(last):
            return length
    return None


def short(name):
    """A kernel's name without its types and parameters."""
    return re.split(r"[<(]", name.removeprefix("void "))[0]


def table(all_launches, repeated):
    names = [name for name, _ in all_launches]
    length = step_of(names, repeated)
    if length is None:
        sys.exit(f"gpu_kernels: no sequence stands {repeated} times at the end of {len(names)} launches: profile more steps")
    count, time = defaultdict(int), defaultdict(float)
    for name, nanoseconds in all_launches[-length * repeated :]:
        count[short(name)] += 1
        time[short(name)] += nanoseconds
    whole = sum(time.values())
    print(f"{length} launches a step, mean of {repeated} steps, {whole / repeated / 1e6:.3f} ms in all\n")
    print("| kernel | launches | µs each | µs a step | share |\n| --- | ---: | ---: | ---: | ---: |")
    for name in sorted(time, key=time.get, reverse=True):
        each, share = time[name] / count[name] / 1e3, 100 * time[name] / whole
        print(f"| {name} | {count[name] // repeated} | {each:.1f} | {time[name] / repeated / 1e3:.1f} | {share:.1f} % |")


def profiled(binary, row):
    ncu = shutil.which("ncu")
    if ncu is None:
        print("gpu_kernels: ncu (Nsight Compute) is not on the PATH: no table of kernels")
        return None
    command = [ncu, "--csv", "--metrics", METRIC, "--graph-profiling", "node", "--cache-control", "none", "--clock-control", "none"]
    command += [binary, "--steps", str(STEPS), "--only", row]
    done = subprocess.run(command, capture_output=True, text=True)
    found = launches(done.stdout.splitlines())
    if not found:
        lines = (done.stdout + done.stderr).strip().splitlines()
        reason = next((line for line in lines if "no CUDA device" in line or "ERROR" in line), lines[-1] if lines else "no output")
        print(f"gpu_kernels: ncu saw no kernel of {binary}: {reason}")
        return None
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", metavar="GPU_BENCH", help="target/release/examples/gpu_bench, built with CUDA")
    parser.add_argument("--only", default=ROW, metavar="ROW", help=f"part of the row's name [default: {ROW}]")
    parser.add_argument("--csv", metavar="FILE", help="what ncu wrote before")
    parser.add_argument("--repeated", type=int, default=REPEATED, metavar="N", help=f"steps at the end that are averaged [default: {REPEATED}]")
    arguments = parser.parse_args()
    if (arguments.binary is None) == (arguments.csv is None):
        parser.error("either GPU_BENCH or --csv FILE")
    if arguments.csv:
        with open(arguments.csv, encoding="utf-8") as file:
            found = launches(file)
        if not found:
            sys.exit(f"gpu_kernels: {arguments.csv} has no rows of {METRIC}: write it with ncu --csv --metrics {METRIC}")
    else:
        found = profiled(arguments.binary, arguments.only)
    if found:
        table(found, arguments.repeated)


if __name__ == "__main__":
    main()
