"""Runs lm-evaluation-harness on local task files and compares what `adder eval tasks` found there.

Prompts, targets, choices and metrics are the harness's own task definitions; only where the
documents come from is replaced. Every log-likelihood must agree within 1e-3, and every metric and
standard error as the harness prints it, with four decimals (a perplexity, which is the exponential
of a mean of 32-bit sums, within a hundred-thousandth of itself where it has more digits).
"""

import argparse
import json
import logging
import pathlib
import sys
import tempfile

import lm_eval
import torch
from lm_eval.tasks._yaml_loader import load_yaml

TOLERANCE = 1e-3


def local_model(model, work):
    """The model directory, safe to open: where config.json says rescale_prenorm_residual, a matter
    of initialization, transformers 5 divides the out_proj that it has just loaded."""
    for path in model.iterdir():
        (work / path.name).symlink_to(path.resolve())
    config = json.loads((model / "config.json").read_text())
    if config.get("rescale_prenorm_residual"):
        config["rescale_prenorm_residual"] = False
        (work / "config.json").unlink()
        (work / "config.json").write_text(json.dumps(config))
    return str(work)


def local_task(name, data):
    """The harness's own definition of a task, its documents from a local file."""
    path = next(
        path
        for path in pathlib.Path(lm_eval.__file__).parent.glob("tasks/**/*.yaml")
        if f"\ntask: {name}\n" in "\n" + path.read_text()
    )
    config = load_yaml(path, resolve_func=True)
    for key in ("tag", "group", "include", "dataset_name", "training_split", "process_docs"):
        config.pop(key, None)
    split = "test" if config.get("test_split") else "validation"
    config["dataset_path"] = "json"
    config["dataset_kwargs"] = {"data_files": {split: str(data / f"{name}.jsonl")}}
    config["validation_split"] = split if split == "validation" else None
    config["test_split"] = split if split == "test" else None
    config["task"] = f"local_{name}"
    if name == "hellaswag":
        # The file holds what process_docs makes of the documents.
        config["doc_to_target"] = "{{gold}}"
    return config


def adder_results(path):
    results = {}
    for line in open(f"{path}.jsonl").read().splitlines()[1:]:
        record = json.loads(line)
        results.setdefault(record["task"], []).append(record)
    return results, json.load(open(f"{path}.json"))["tasks"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--limit", required=True, type=int)
    parser.add_argument("--adder", required=True, help="Adder's results are ADDER.json, ADDER.jsonl")
    arguments = parser.parse_args()
    names = arguments.tasks.split(",")

    logging.disable(logging.WARNING)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as work:
        model = local_model(arguments.model, pathlib.Path(work))
        harness = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": model, "dtype": "float32", "prefix_token_id": 0},
            tasks=[local_task(name, arguments.data) for name in names],
            num_fewshot=0,
            limit=arguments.limit,
            batch_size=1,
            device="cpu",
        )
    ours, our_metrics = adder_results(arguments.adder)

    failures = 0
    print(f"{'task':<16}{'requests':>9}{'largest difference':>20}   {'metric':<19}"
          f"{'harness':>16}{'adder':>16}")
    for name in names:
        worst = 0.0
        requests = 0
        samples = sorted(harness["samples"][f"local_{name}"], key=lambda sample: sample["doc_id"])
        for sample, record in zip(samples, ours[name], strict=True):
            theirs = [float(response[0][0]) for response in sample["resps"]]
            for a, b in zip(theirs, record["log_likelihoods"], strict=True):
                worst = max(worst, abs(a - b))
                requests += 1
            if "greedy" in record:
                assert [str(r[0][1]) == "True" for r in sample["resps"]] == record["greedy"], sample
        failures += worst > TOLERANCE
        head = f"{name:<16}{requests:>9}{worst:>20.2e}"
        results = harness["results"][f"local_{name}"]
        for key, theirs in results.items():
            metric, _, kind = key.partition(",")
            if not kind:
                continue
            value = our_metrics[name][metric]
            same = f"{theirs:.4f}" == f"{value:.4f}"
            if metric.startswith("perplexity"):
                same = same or abs(theirs - value) <= 1e-5 * theirs
            failures += not same
            print(f"{head:<45}   {metric:<19}{theirs:>16.4f}{value:>16.4f}"
                  f"{'' if same else '   differs'}")
            head = ""
    print("all agree" if failures == 0 else f"{failures} differences")
    sys.exit(failures > 0)


main()
