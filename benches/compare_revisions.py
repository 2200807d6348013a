"""Two builds of this project beside each other: the time of the second over that of the first, with its 95 % interval.

    git worktree add OLD_TREE OLD; for each tree: cargo build --release -p ds-lab --example measure
    python benches/compare_revisions.py OLD_TREE/target/release/examples/measure target/release/examples/measure
        [--pairs 15] [--threads 2] [--only TEXT ...] [--json FILE]

The cases are those of compare_pytorch.py that are timed. The builds take turns within a pair, the other one first in every second
pair; each answer is the median of the repetitions of 0.3 s. The ratio is the geometric mean over the pairs, its interval that of
Student's t for the logarithms.
"""
import argparse
import json
import math
import statistics
from pathlib import Path

from compare_pytorch import Side, cases

# Quantiles of Student's t at 97.5 %, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 11: 2.201,
           12: 2.179, 13: 2.160, 14: 2.145, 19: 2.093, 24: 2.064, 29: 2.045}


def interval(ratios):
    """(geometric mean, low, high)."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, degrees = statistics.mean(logs), len(logs) - 1
    quantile = STUDENT[max(known for known in STUDENT if known <= degrees)]
    margin = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return tuple(math.exp(value) for value in (mean, mean - margin, mean + margin))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="the measure example of one build")
    parser.add_argument("second", type=Path, help="that of the other build")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[""], help="cases that contain one of these texts")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    if arguments.pairs < 2:
        parser.error("--pairs: an interval needs at least 2")
    ours = [line for _, line, _, _, is_memory in cases(False) if not is_memory]
    lines = [line for line in dict.fromkeys(ours) if any(text in line for text in arguments.only)]
    sides = [Side([path], {"RAYON_NUM_THREADS": str(arguments.threads)}) for path in (arguments.first, arguments.second)]
    rows = []
    print("| case | first, ms | second, ms | second / first | 95 % interval |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for line in lines:
        times = [[], []]
        for pair in range(arguments.pairs):
            for k in [0, 1] if pair % 2 == 0 else [1, 0]:
                times[k].append(sides[k](line))
        ratio, low, high = interval([second / first for first, second in zip(*times)])
        medians = [statistics.median(of_side) for of_side in times]
        rows.append({"case": line, "first_ms": medians[0], "second_ms": medians[1], "ratio": ratio, "interval": [low, high]})
        print(f"| {line} | {medians[0]:.4g} | {medians[1]:.4g} | {ratio:.3f} | {low:.3f} to {high:.3f} |", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
