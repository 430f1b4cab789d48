"""Compares ids and decoded text of Adder and of PyPI's tokenizers on random Unicode.

Makes tokenizers of every kind that Adder knows with the package, gives both the same texts, and
fails on the first kinds that differ. Seed 0 gives every assigned character instead.

usage: tokenizers_fuzz.py ADDER CASES SEED
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as cut

WORDS = """the of and to a in that is was he for it with as his on be at by I this had not are but
from or have an they which one you were her all she there would their we him been has when who will
more no if out so said what up its about into than them can only other new some could time these two
may then do first any my now such like our over man me even most made after also did many before must
through back years where much your way well down should because each just those people Mr how too
little state good very make world still own see men work long get here between both life being under
never day same another know while last might us great old year off come since against go came right
used take three running walked quickly nation's it's we'll I'm they've don't would've""".split()
BYTES = cut.ByteLevel.alphabet()
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FRAGMENTS = (
    ["'s", "'S", "'ll", "'re", "'\u017f", " ", "  ", "   ", "\n", "\t", "\r\n", "\u00a0", "\u3000"]
    + ["\x85", "\u2028", "\u180e", "123", "4567", "\u00bd", "\u00b2", "\u2167", "_", "-", "\u2014"]
    + ["foo", "foobar", "[X]", "[MASK]", "<|im|>", "caf\u00e9", "cafe\u0301", "e\u0301x", "hello"]
    + ["wo rld", "<s>", "</s>", "<unk>", "<|endoftext|>", "<0x41>", "\u2581", "\u2581\u2581"]
    + ["\u0120", "a" * 60, "x" * 200, "\u0130", "\u01c5", "\u03a3", "\u00df", "\ud55c"]
    + ["\u1112\u1161\u11ab", "\u304b\u3099", "\u0344", "\ufb01", "\u200d", "\u200c", "\ufeff"]
    + ["\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308"]
)


def train(normalizer, pre_tokenizer, decoder, byte_level=False, special=(), **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=list(special),
        initial_alphabet=BYTES if byte_level else [],
        show_progress=False,
    )
    # Without a pre-tokenizer every piece given is one word.
    pieces = [" ".join(WORDS[i : i + 5]) for i in range(len(WORDS))] if pre_tokenizer else WORDS
    tokenizer.train_from_iterator(pieces * 3, trainer)
    return tokenizer


def llama():
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    spaces = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = train(
        spaces, None, decoder, special=special, byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["id"] < 3]
    return Tokenizer.from_str(json.dumps(description))


def metaspace(scheme, split):
    return train(
        None,
        cut.Metaspace(prepend_scheme=scheme, split=split),
        decoders.Metaspace(prepend_scheme=scheme),
        special=["<unk>", "<s>"],
        unk_token="<unk>",
    )


def byte_level(normalizer, pre_tokenizer, special=()):
    return train(normalizer, pre_tokenizer, decoders.ByteLevel(), byte_level=True, special=special)


def behavior(name):
    return train(
        normalizers.Replace(Regex(r"\d+"), "#"),
        cut.Sequence(
            [cut.Split(Regex(r"\s+|[aeiou]"), name), cut.Punctuation(name), cut.Split("th", name)]
        ),
        None,
        special=["<unk>"],
        unk_token="<unk>",
    )


def with_added(tokenizer):
    tokenizer.add_special_tokens(
        [AddedToken("<|im|>", lstrip=True, rstrip=True), AddedToken("[MASK]", single_word=True)]
    )
    tokenizer.add_tokens(
        [
            AddedToken("caf\u00e9", normalized=True),
            AddedToken("e\u0301x", normalized=True, single_word=True),
            AddedToken("foo", normalized=False, single_word=True),
            AddedToken("foobar", lstrip=True, normalized=False),
            AddedToken("wo rld", normalized=True, rstrip=True),
            AddedToken("  ", normalized=True),
            AddedToken("[X]", normalized=False, lstrip=True),
        ]
    )
    return tokenizer


def kinds():
    gpt2 = cut.ByteLevel(add_prefix_space=False)
    yield "gpt2", byte_level(None, gpt2, ["<|endoftext|>"])
    yield "gpt-neox", with_added(byte_level(normalizers.NFC(), gpt2, ["<|endoftext|>"]))
    yield "llama", llama()
    yield "llama, added tokens", with_added(llama())
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            yield f"metaspace {scheme} {split}", metaspace(scheme, split)
    yield "metaspace, added tokens", with_added(metaspace("first", True))
    llama3 = cut.Split(Regex(LLAMA3), "isolated")
    unsplit = cut.ByteLevel(add_prefix_space=False, use_regex=False)
    yield "llama 3", byte_level(None, cut.Sequence([llama3, unsplit]), ["<|begin|>"])
    falcon = [cut.Punctuation("contiguous"), gpt2, cut.Digits(False)]
    falcon.append(cut.Split(Regex("[0-9][0-9][0-9]"), "isolated"))
    yield "falcon", byte_level(None, cut.Sequence(falcon), [">>TITLE<<"])
    yield "prefix space", byte_level(normalizers.NFKC(), cut.ByteLevel(add_prefix_space=True))
    yield "digits", byte_level(normalizers.NFC(), cut.Sequence([cut.Digits(True), gpt2]))
    lower = normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()])
    spaces = cut.Sequence([cut.WhitespaceSplit(), cut.Digits(True)])
    fused = {"special": ["<unk>"], "unk_token": "<unk>", "fuse_unk": True}
    yield "nfkd, lower case", train(lower, spaces, None, **fused)
    strip = normalizers.Sequence([normalizers.Strip(), normalizers.NFD()])
    yield "nfd, whitespace", train(strip, cut.Whitespace(), None, special=["<unk>"], unk_token="<unk>")
    for name in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        yield name, behavior(name)


def make_texts(count, seed):
    # Characters of Unicode 14, which all parts of both programs know.
    assigned = [
        c
        for c in range(1, 0x110000)
        if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) not in ("Cn", "Co")
    ]
    if seed == 0:
        return ["a" + chr(c) + "b " + chr(c) + " 1" + chr(c) for c in assigned]
    marks = [c for c in assigned if unicodedata.combining(chr(c))]
    composed = [c for c in assigned if unicodedata.decomposition(chr(c))]
    generator = random.Random(seed)
    texts = []
    for _ in range(count):
        text = ""
        for _ in range(generator.randint(0, 30)):
            choice = generator.random()
            if choice < 0.15:
                text += chr(generator.choice(assigned))
            elif choice < 0.25:
                text += chr(generator.choice(marks))
            elif choice < 0.32:
                text += chr(generator.choice(composed))
            elif choice < 0.38:
                text += chr(generator.randint(1, 0x7F))
            elif choice < 0.42:
                text += chr(generator.randint(0x80, 0x2FFF))
            else:
                text += generator.choice(WORDS if choice < 0.72 else FRAGMENTS)
            if generator.random() < 0.4:
                text += generator.choice([" ", " ", "  ", "\n"])
        texts.append(text)
    return texts


def run(adder, arguments, data):
    return subprocess.run([adder, "tokenize", *arguments], input=data, stdout=subprocess.PIPE, check=True)


def main():
    adder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    texts = make_texts(count, seed)
    data = "\0".join(texts).encode()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "tokenizer.json")
        for name, tokenizer in kinds():
            tokenizer.save(path)
            tokenizer = Tokenizer.from_file(path)
            expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
            lines = run(adder, ["--tokenizer", path, "--ids", "--null"], data).stdout.decode()
            given = [[int(i) for i in line.split()] for line in lines.split("\n")[: len(texts)]]
            different = [i for i, ids in enumerate(expected) if ids != given[i]]
            # All ids as one text: the same bytes come out of both.
            ids = [i for some in expected[:1000] for i in some]
            back = run(adder, ["--tokenizer", path, "--decode"], " ".join(map(str, ids)).encode())
            same = back.stdout.decode() == tokenizer.decode(ids, skip_special_tokens=False)
            print(f"{name}: {len(texts)} texts, {len(different)} differ; decoded {'same' if same else 'different'}")
            for i in different[:3]:
                print("   ", ascii(texts[i])[:200], given[i][:40], expected[i][:40])
            failures += bool(different) or not same
    sys.exit(1 if failures else 0)


main()
