"""The official Mamba kernels and Adder's on the same tensors, on one GPU, in one run.

Builds the kernels of mamba_ssm and causal_conv1d for this GPU from their unpacked source packages,
computes and times each operator on random inputs, writes inputs, results and time to a file, and has
`adder bench tensors` compare its results with them and time itself on the same inputs. Prints a table
in Markdown.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import types

import torch
from safetensors.torch import save_file
from torch.utils.cpp_extension import load

NVCC_FLAGS = [
    "-O3",
    "-std=c++17",
    "--use_fast_math",
    "--expt-relaxed-constexpr",
    "--expt-extended-lambda",
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT162_OPERATORS__",
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
]


def find_packages(sources):
    """Makes the packages importable without their __init__, which need more than the operators do."""
    for package in ("mamba_ssm", "causal_conv1d"):
        bare = types.ModuleType(package)
        bare.__path__ = [str(next(sources.glob(f"{package}-*/")) / package)]
        sys.modules[package] = bare


def build(sources, package, name, folder, unused=lambda file: False):
    """A package's extension, with the flags of its setup.py but for this GPU alone, and without its
    `unused` files: what is in those is looked for when it is called, which it is not."""
    print(f"building {name} ...", file=sys.stderr, flush=True)
    major, minor = torch.cuda.get_device_capability()
    os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
    root = next(sources.glob(f"{package}-*/"))
    files = sorted(p for p in (root / folder).iterdir() if p.suffix in (".cpp", ".cu"))
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    sys.modules[name] = load(
        name,
        [str(p) for p in files if not unused(p)],
        extra_include_paths=[str(root / folder)],
        extra_cflags=["-O3", "-std=c++17"],
        extra_cuda_cflags=NVCC_FLAGS,
        extra_ldflags=["-Wl,-z,lazy"],
    )
    sys.setdlopenflags(flags)


def median_seconds(calls):
    """Of one call on the device; the calls do the same on different memory, in turns. The device is
    kept busy until all of a call has been asked for: what Python takes for that does not count."""
    for call in calls * 3:
        call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds = []
    for i in range(31):
        torch.cuda._sleep(30_000_000)  # cycles: some 15 ms
        begin.record()
        calls[i % len(calls)]()
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def random(*shape, dtype=torch.bfloat16, scale=1.0, mean=0.0):
    return (torch.randn(*shape, device="cuda") * scale + mean).to(dtype)


def rows(tensor):
    """[batch, channels, length] as Adder has it: [batch · length, channels]."""
    return tensor.transpose(1, 2).flatten(0, 1).contiguous()


def flat(tensor):
    """[batch, length, ...] as [batch · length, ...]."""
    return tensor.flatten(0, 1).flatten(1).contiguous()


def gradients(result, dy, inputs):
    return torch.autograd.grad(result, inputs, dy)


class Case:
    """title, metadata; make() → inputs by Adder's names; call(inputs, dy) → results by those names."""

    def __init__(self, op, title, backward, make, call, to_file, **metadata):
        self.op, self.title, self.backward = op, title, backward
        self.make, self.call, self.to_file = make, call, to_file
        self.metadata = metadata

    def run(self, inputs):
        if not self.backward:
            with torch.no_grad():
                return self.call(inputs)
        return self.call(inputs)

    def write(self, path):
        sets = [self.make() for _ in range(2)]
        results = self.run(sets[0])
        seconds = median_seconds([lambda s=s: self.run(s) for s in sets])
        tensors = {}
        for name, tensor in sets[0].items():
            if name != "dy" or self.backward:
                tensors[name] = self.to_file(name, tensor.detach()).cpu()
        for name, tensor in results.items():
            tensors["peer." + name] = self.to_file(name, tensor.detach()).cpu()
        metadata = {"op": self.op, "title": self.title, "seconds": repr(seconds)}
        metadata |= {key: str(value) for key, value in self.metadata.items()}
        save_file(tensors, path, metadata)


def needing_gradients(tensors, backward):
    return {k: t.requires_grad_(backward and k != "dy") for k, t in tensors.items()}


def scan_case(batch, channels, length, backward, states=16):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def make():
        wide = (batch, channels, length)
        f32 = torch.float32
        A = torch.arange(1, states + 1, device="cuda", dtype=f32).repeat(channels, 1)
        tensors = {
            "x": random(*wide),
            "dt": random(*wide, scale=0.5),
            "A": -A,
            "B": random(batch, states, length),
            "C": random(batch, states, length),
            "D": random(channels, dtype=f32),
            "z": random(*wide),
            "dt_bias": random(channels, dtype=f32, mean=-4.0),
            "dy": random(*wide),
        }
        return needing_gradients(tensors, backward)

    def call(t):
        y = selective_scan_fn(
            t["x"], t["dt"], t["A"], t["B"], t["C"], t["D"], t["z"], t["dt_bias"], delta_softplus=True
        )
        if not backward:
            return {"y": y}
        names = ["x", "dt", "A", "B", "C", "D", "z", "dt_bias"]
        results = gradients(y, t["dy"], [t[name] for name in names])
        named = dict(zip(("dx", "ddt", "dA", "dB", "dC", "dD", "dz", "d_dt_bias"), results))
        return {"y": y, **named}

    title = f"scan {'forward + backward' if backward else 'forward'} ({batch}, {channels}, {length}, {states})"
    to_file = lambda _, t: rows(t) if t.dim() == 3 else t
    return Case("selective_scan", title, backward, make, call, to_file, sequences=batch)


def conv_case(batch, channels, length, backward):
    from causal_conv1d.causal_conv1d_interface import causal_conv1d_fn

    def make():
        tensors = {
            "x": random(batch, channels, length),
            "weight": random(channels, 4, dtype=torch.float32, scale=0.5),
            "bias": random(channels, dtype=torch.float32),
            "dy": random(batch, channels, length),
        }
        return needing_gradients(tensors, backward)

    def call(t):
        y = causal_conv1d_fn(t["x"], t["weight"], t["bias"], activation="silu")
        if not backward:
            return {"y": y}
        results = gradients(y, t["dy"], [t["x"], t["weight"], t["bias"]])
        return {"y": y, **dict(zip(("dx", "dweight", "dbias"), results))}

    title = f"conv1d {'forward + backward' if backward else 'forward'} ({batch}, {channels}, {length})"
    to_file = lambda _, t: rows(t) if t.dim() == 3 else t
    return Case("causal_conv1d", title, backward, make, call, to_file, sequences=batch)


def ssd_case(batch, length, heads, head_dim, states, backward):
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    def make():
        tensors = {
            "x": random(batch, length, heads, head_dim),
            "dt": random(batch, length, heads),
            "A": -torch.linspace(1, 16, heads, device="cuda"),
            "B": random(batch, length, 1, states),
            "C": random(batch, length, 1, states),
            "D": random(heads, dtype=torch.float32),
            "dt_bias": random(heads, dtype=torch.float32, mean=-4.0),
            "dy": random(batch, length, heads, head_dim),
        }
        return needing_gradients(tensors, backward)

    def call(t):
        y = mamba_chunk_scan_combined(
            t["x"], t["dt"], t["A"], t["B"], t["C"], chunk_size=256, D=t["D"],
            dt_bias=t["dt_bias"], dt_softplus=True,
        )  # fmt: skip
        if not backward:
            return {"y": y}
        names = ["x", "dt", "A", "B", "C", "D", "dt_bias"]
        results = gradients(y, t["dy"], [t[name] for name in names])
        named = dict(zip(("dx", "ddt", "dA", "dB", "dC", "dD", "d_dt_bias"), results))
        return {"y": y, **named}

    title = (
        f"ssd {'forward + backward' if backward else 'forward'} "
        f"({batch}, {length}, {heads} x {head_dim}, N {states})"
    )
    to_file = lambda _, t: flat(t) if t.dim() >= 3 else t
    return Case("ssd", title, backward, make, call, to_file, sequences=batch, groups=1)


def norm_case(count, channels, backward):
    from mamba_ssm.ops.triton.layer_norm import rms_norm_fn

    def make():
        tensors = {
            "x": random(count, channels),
            "residual": random(count, channels, dtype=torch.float32),
            "weight": random(channels, dtype=torch.float32),
            "dy": random(count, channels),
        }
        return needing_gradients(tensors, backward)

    def call(t):
        y, residual = rms_norm_fn(
            t["x"], t["weight"], None, residual=t["residual"], eps=1e-5, prenorm=True,
            residual_in_fp32=True,
        )  # fmt: skip
        if not backward:
            return {"y": y, "residual_out": residual}
        results = gradients(y, t["dy"], [t["x"], t["weight"]])
        return {"y": y, "residual_out": residual, **dict(zip(("dx", "dweight"), results))}

    title = f"rms_norm + residual {'forward + backward' if backward else 'forward'} ({count}, {channels})"
    return Case("rms_norm", title, backward, make, call, lambda _, t: t, sequences=1, eps=1e-5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=pathlib.Path, required=True)
    parser.add_argument("--adder", required=True)
    parser.add_argument("--only", nargs="+", choices=["scan", "ssd", "conv1d", "rms_norm"])
    arguments = parser.parse_args()
    sources = arguments.sources.resolve()
    wanted = arguments.only or ["rms_norm", "ssd", "conv1d", "scan"]
    torch.manual_seed(1)
    find_packages(sources)
    makers = []
    if "rms_norm" in wanted:
        makers += [
            lambda: norm_case(32768, 768, False),
            lambda: norm_case(32768, 768, True),
        ]
    if "ssd" in wanted:
        makers += [
            lambda: ssd_case(8, 2048, 80, 64, 128, False),
            lambda: ssd_case(8, 2048, 80, 64, 128, True),
        ]
    if "conv1d" in wanted:
        build(sources, "causal_conv1d", "causal_conv1d_cuda", "csrc")
        makers += [
            lambda: conv_case(8, 5120, 2048, False),
            lambda: conv_case(8, 2048, 2048, True),
        ]
    if "scan" in wanted:
        # Its seven files of other types take longer than all the rest.
        other_types = re.compile("fp16|fp32|complex")
        build(
            sources, "mamba_ssm", "selective_scan_cuda", "csrc/selective_scan",
            unused=lambda file: other_types.search(file.stem),
        )  # fmt: skip
        makers += [
            lambda: scan_case(8, 2048, 2048, False),
            lambda: scan_case(8, 2048, 2048, True),
            lambda: scan_case(8, 5120, 2048, False),
            lambda: scan_case(1, 1024, 65536, False),
            lambda: scan_case(1, 1024, 65536, True),
        ]
    print("| work | official ms | Adder ms | ratio | largest difference |")
    print("|---|---|---|---|---|", flush=True)
    failed = False
    for make_case in makers:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "case.safetensors")
            case = make_case()
            case.write(path)
            torch.cuda.empty_cache()
            finished = subprocess.run(
                [arguments.adder, "bench", "tensors", path, "--device", "cuda", "--json"],
                capture_output=True, text=True,
            )  # fmt: skip
        if finished.returncode != 0:
            print(f"| {case.title} | | | | {finished.stderr.strip()} |", flush=True)
            failed = True
            continue
        row = json.loads(finished.stdout)[0]
        print(
            f"| {case.title} | {row['peer_ms']:.3f} | {row['ms']:.3f} | {row['ratio']:.2f} "
            f"| {row['difference']:.1e} of {row['most_different']} |",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
