"""Makes the small reference of the repository: a few cases of a full reference file, in the same form.

    python3 shrink_reference.py FULL.json reference-small.json
"""
import json
import sys

full = json.load(open(sys.argv[1]))
seen, cases = {}, []
for case in full["activations"]:
    key = (case["kind"], case["mode"])
    if seen.setdefault(key, 0) < (2 if case["mode"] == "fc" else 1):
        seen[key] += 1
        cases.append(case)
small = {
    "source": full["source"],
    "activations": cases,
    "parameter_counts": full["parameter_counts"],
    "networks": full["networks"][:1],
}
json.dump(small, open(sys.argv[2], "w"), separators=(",", ":"))
