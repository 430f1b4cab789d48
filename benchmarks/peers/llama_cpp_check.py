"""Whether llama.cpp reads what Adder writes: `llama_cpp_check.py ADDER WORK_FOLDER`.

Small models of every architecture that both programs know (those of tests/goldens, which Hugging
Face transformers made, and one wide enough for blocks of 256) are converted to GGUF in every type
of weights. Then
- texts become the same tokens by the tokenizer in the file;
- llama.cpp continues a prompt greedily, and after every token the logits of both agree;
- the continuation is, token by token, what Adder takes for most likely, and the same text.
Greedy tokens may differ where two logits lie closer together than rounding moves them: each such
place is printed. Rounding: in f32 that of sums; llama.cpp rounds activations to f16 beside f16
weights and to 8 bits beside quantized ones, and Adder does not when it computes in f32.
"""

import json
import pathlib
import struct
import subprocess
import sys

import numpy
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from llama_cpp_model import Context, Model

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Of the largest logit's size.
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2}
QUANTIZED_TOLERANCE = 0.15
# llama.cpp takes GPT-NeoX's GELU from a table of f16, and has one epsilon where the golden
# Falcon-Mamba has two.
TOLERANCE_OF = {"gpt-neox-text-f32": 2e-3, "gpt-neox-f32": 2e-3, "falcon-mamba-f32": 1e-3}
GENERATED = 24
ARCHITECTURES = ("mamba-tied", "falcon-mamba", "mamba2-g1", "gpt-neox", "llama")
PROMPT = "Each layer calls only those below it: the operators, the models"
TEXTS = [
    PROMPT,
    " two  spaces,\n\n\tlines and tabs \n",
    "It's 1234567 or 3.14; they'll say `f(x) = x²`!",
    "Grüße, naïve café – Ünïcödé; 中文字符, русский, ελληνικά, 🐍🦎 👩‍👧",
    "",
]


def read_safetensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    kinds = {"F32": numpy.float32, "I32": numpy.int32}
    return {
        name: numpy.frombuffer(
            data[8 + size + entry["data_offsets"][0] : 8 + size + entry["data_offsets"][1]],
            kinds[entry["dtype"]],
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }


def write_safetensors(path, tensors):
    header, blocks, end = {}, [], 0
    for name, tensor in tensors.items():
        block = numpy.ascontiguousarray(tensor, numpy.float32).tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": tensor.shape,
            "data_offsets": [end, end + len(block)],
        }
        blocks.append(block)
        end += len(block)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blocks))


def llama_tokenizer():
    """A BPE with metaspaces and byte fallback, as Llama's."""
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    # Words one by one: without a pre-tokenizer a piece of text is one word.
    words = " ".join(p.read_text() for p in sorted((ROOT / "docs").glob("*.md"))).split()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["id"] < 3]
    # A text begins with <s>.
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    return description


class Check:
    def __init__(self, adder, work):
        self.adder, self.work = adder, work
        self.failures = 0

    def run(self, *arguments, data=b""):
        command = [str(argument) for argument in (self.adder, *arguments)]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()}")
        return done.stdout

    def fail(self, message):
        self.failures += 1
        print(f"    FAILED: {message}")

    def convert(self, directory, weights):
        path = self.work / f"{directory.name}-{weights}.gguf"
        option = "--dtype" if weights in TOLERANCE else "--quantize"
        self.run("convert", directory, path, option, weights)
        return path

    def with_vocabulary(self, golden, tokenizer):
        """A golden model with the tokenizer's vocabulary, and without what llama.cpp lacks."""
        source = ROOT / "tests/goldens" / golden
        directory = self.work / f"{golden}-text"
        directory.mkdir()
        config = json.loads((source / "config.json").read_text())
        before = config["vocab_size"]
        size = 1 + max(tokenizer["model"]["vocab"].values())
        config["vocab_size"] = size
        config["bos_token_id"], config["eos_token_id"] = 1, 2
        # llama.cpp has one epsilon for all norms.
        if "mixer_rms_eps" in config:
            config["mixer_rms_eps"] = config["layer_norm_epsilon"]
        generator = numpy.random.default_rng(1)
        tensors = read_safetensors(source / "model.safetensors")
        if config.get("use_bias"):
            config["use_bias"] = False
            biases = ("mixer.in_proj.bias", "mixer.out_proj.bias")
            tensors = {n: tensor for n, tensor in tensors.items() if not n.endswith(biases)}
        for name, tensor in tensors.items():
            if tensor.shape[0] == before:
                tensors[name] = generator.normal(0, tensor.std(), (size, tensor.shape[1]))
        (directory / "config.json").write_text(json.dumps(config))
        write_safetensors(directory / "model.safetensors", tensors)
        (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
        return directory

    def adder_logits(self, path, ids):
        output = self.work / "logits.safetensors"
        self.run("logits", "--model", path, "--tokens", ",".join(map(str, ids)), "--output", output)
        return read_safetensors(output)["logits"]

    def follow(self, context, path, weights, prompt, count):
        """llama.cpp's greedy continuation, its logits held against Adder's on the way."""
        context.clear()
        context.decode(prompt)
        ids, theirs = list(prompt), []
        for step in range(count):
            theirs.append(context.logits())
            ids.append(int(theirs[-1].argmax()))
            if step + 1 < count:
                context.decode(ids[-1:])
        theirs = numpy.stack(theirs)
        ours = self.adder_logits(path, ids)[len(prompt) - 1 : -1]
        largest = numpy.abs(ours).max()
        error = numpy.abs(ours - theirs).max() / largest
        continuation = ids[len(prompt) :]
        apart = [i for i in range(count) if int(ours[i].argmax()) != continuation[i]]
        allowed = TOLERANCE_OF.get(path.stem, TOLERANCE.get(weights, QUANTIZED_TOLERANCE))
        print(f"  {path.stem}: logits differ by {error:.1e} of the largest, "
              f"{count - len(apart)} of {count} greedy tokens are the same")
        for i in apart:
            gap = (ours[i].max() - ours[i][continuation[i]]) / largest
            print(f"    token {i}: llama.cpp {continuation[i]}, Adder {int(ours[i].argmax())}, "
                  f"whose logit is higher by {gap:.1e}")
        if not error <= allowed:
            self.fail(f"logits should agree within {allowed}")
        return continuation, not apart

    def golden(self, name, weights):
        """Without a tokenizer, beside what transformers computed."""
        source = ROOT / "tests/goldens" / name
        path = self.convert(source, weights)
        model = Model(path)
        context = Context(model, exact=True)
        greedy = read_safetensors(source / "golden.safetensors")["greedy"][0].tolist()
        continuation, same = self.follow(context, path, weights, greedy[:16], len(greedy) - 16)
        # llama.cpp has one epsilon for all norms, Falcon-Mamba's config two.
        if weights == "f32" and same and continuation != greedy[16:]:
            self.fail("transformers chose other tokens")
        context.close()
        model.close()

    def text(self, directory, weights):
        path = self.convert(directory, weights)
        model = Model(path)
        context = Context(model, exact=True)
        joined = "\0".join(TEXTS).encode()
        lines = self.run("tokenize", "--model", path, "--ids", "--null", "--special", data=joined)
        ours = [[int(i) for i in line.split()] for line in lines.decode().split("\n")][: len(TEXTS)]
        for text, ids in zip(TEXTS, ours):
            theirs = model.tokenize(text, special=True)
            if ids != theirs:
                self.fail(f"tokens of {text!r}: {ids} here, {theirs} there")
        continuation, same = self.follow(context, path, weights, ours[0], GENERATED)
        output = self.run(
            "generate", "--model", path, "--prompt", PROMPT, "--temperature", 0, "--max-tokens",
            GENERATED, "--json",
        )
        here = json.loads(output)["text"]
        there = model.detokenize(continuation).decode(errors="replace")
        end = continuation.index(2) if 2 in continuation else None
        if end is not None:
            there = model.detokenize(continuation[:end]).decode(errors="replace")
        if same and here != there:
            self.fail(f"text: {here!r} here, {there!r} there")
        context.close()
        model.close()


def main():
    check = Check(sys.argv[1], pathlib.Path(sys.argv[2]))
    print("with a tokenizer in the file:")
    texts = sorted((ROOT / "docs").glob("*.md"))
    check.run("tokenizer", "train", *texts, "--vocab-size", 500, "--output", check.work / "bpe")
    byte_level = json.loads((check.work / "bpe/tokenizer.json").read_text())
    llama = llama_tokenizer()
    for name in ARCHITECTURES + ("mamba-untied-bias",):
        directory = check.with_vocabulary(name, llama if name == "llama" else byte_level)
        for weights in ("f32", "f16", "bf16", "q8_0", "q4_0"):
            check.text(directory, weights)
    wide = check.work / "mamba-wide"
    check.run("init", wide, "--d-model", 256, "--n-layer", 2, "--tokenizer", check.work / "bpe")
    for weights in ("f32", "q4_k", "q6_k"):
        check.text(wide, weights)

    print("tests/goldens, without a tokenizer:")
    for name in ARCHITECTURES:
        for weights in ("f32", "f16", "q8_0"):
            check.golden(name, weights)

    print("all agree" if check.failures == 0 else f"{check.failures} failures")
    sys.exit(1 if check.failures else 0)


main()
