"""Times llama.cpp and `adder bench generate` on the same GGUF files, in turns, and prints a table.

llama.cpp: one llama_decode of 512 random tokens with logits of the last one, then single tokens,
with no sampling, on one thread and on two; of each the median, and the better one counts. Adder:
what `adder bench generate --dtype bf16` says, greedy sampling included. llama.cpp rounds activations
to f16 beside f16 weights, and to 8 bits beside quantized ones; Adder to bf16, and when decoding to
8 bits beside quantized ones.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import time

from llama_cpp_model import Context, Model

PROMPT = 512
GENERATED = 64
THREADS = (1, 2)


def run_llama_cpp(model, context, threads):
    context.set_threads(threads)
    tokens = [random.randrange(model.tokens) for _ in range(PROMPT + GENERATED)]
    context.clear()
    start = time.perf_counter()
    context.decode(tokens[:PROMPT])
    prefilled = time.perf_counter()
    for token in tokens[PROMPT:]:
        context.decode([token])
    return {
        "prefill": PROMPT / (prefilled - start),
        "decode": GENERATED / (time.perf_counter() - prefilled),
    }


def run_adder(adder, path, prompt, generated, batch, repetitions):
    command = [adder, "bench", "generate", "--model", path, "--dtype", "bf16", "--json"]
    command += ["--prompt-length", prompt, "--gen-length", generated, "--batch", batch]
    command += ["--repetitions", repetitions]
    output = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True).stdout
    return json.loads(output)


def median(runs, field):
    return statistics.median(run[field] for run in runs)


def measure(adder, path, rounds):
    model = Model(path)
    context = Context(model)
    context.decode([1] * 8)
    theirs = {threads: [] for threads in THREADS}
    ours, batched = [], []
    for _ in range(rounds):
        for threads in THREADS:
            theirs[threads].append(run_llama_cpp(model, context, threads))
        ours.append(run_adder(adder, path, PROMPT, GENERATED, batch=1, repetitions=3))
        batched.append(run_adder(adder, path, 16, GENERATED // 2, batch=16, repetitions=1))
    context.close()
    model.close()
    return theirs, ours, batched


def row(name, kind, theirs, ours, share):
    best = max(THREADS, key=lambda threads: median(theirs[threads], kind))
    peer = median(theirs[best], kind)
    mine = median(ours, f"{kind}_tokens_per_s")
    ratio = statistics.median(
        run[f"{kind}_tokens_per_s"] / other[kind] for run, other in zip(ours, theirs[best])
    )
    others = ", ".join(f"{median(theirs[t], kind):.0f}" for t in THREADS)
    print(
        f"| {name} | {kind} | {peer:.0f} ({others}) | {mine:.0f} | {ratio:.2f}× | "
        f"{100 * median(ours, share):.0f} % |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--adder", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    random.seed(1)
    threads = ", ".join(map(str, THREADS))
    print(f"| file | what | llama.cpp, best (on {threads} threads) | Adder | ratio | of the roof |")
    print("|---|---|---|---|---|---|")
    for path in arguments.files:
        theirs, ours, batched = measure(arguments.adder, path, arguments.rounds)
        row(path.stem, "decode", theirs, ours, "decode_share_of_memory_roof")
        row(path.stem, "prefill", theirs, ours, "prefill_share_of_gemm_roof")
        together = median(batched, "decode_tokens_per_s")
        ratio = statistics.median(
            many["decode_tokens_per_s"] / one["decode_tokens_per_s"]
            for many, one in zip(batched, ours)
        )
        print(
            f"| {path.stem} | 16 prompts decoded together | | {together:.0f} | "
            f"{ratio:.2f}× one alone | |",
            flush=True,
        )


main()
