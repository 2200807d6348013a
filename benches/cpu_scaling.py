"""Training steps and evaluation on the CPU with 1, 2, 4, … threads: times, and the share of ideal scaling.

    python benches/cpu_scaling.py [--threads 1 2 4 8 16] [--rounds 3] [--ours BINARY] [--markdown FILE]

BINARY is `measure` of crates/ds-lab/examples (built here if need be). All numbers of threads take turns, case by case; a cell has
the median over the rounds in ms and, in brackets, the time with one thread over the number of threads and this time.
"""
import argparse
import os
import statistics
from pathlib import Path

from compare_pytorch import Side, build_measure, processor

CASES = ["step resnet32 explicit_linear", "step resnet32 relu", "evaluate resnet32 explicit_linear",
         "step nin explicit_linear", "evaluate nin explicit_linear", "step convnet bspline", "evaluate convnet bspline"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", nargs="+", type=int, default=[n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    binary = arguments.ours or build_measure()
    sides = {n: Side([str(binary)], {"RAYON_NUM_THREADS": str(n)}) for n in arguments.threads}
    lines = [f"{processor()}, {cores} hardware threads", "",
             "| case | " + " | ".join(f"{n} thread{'s'[:n > 1]}" for n in sides) + " |",
             "| --- |" + " ---: |" * len(sides)]
    for case in CASES:
        if not any(text in case for text in arguments.only):
            continue
        times = {n: [] for n in sides}
        for _ in range(arguments.rounds):
            for n, side in sides.items():
                times[n].append(side(case))
        medians = {n: statistics.median(of) for n, of in times.items()}
        least = min(sides)
        cells = [f"{ms:.2f} ({100 * least * medians[least] / (n * ms):.0f} %)" for n, ms in medians.items()]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


if __name__ == "__main__":
    main()
