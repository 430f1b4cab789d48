"""Times PyPI's tokenizers on a text, on one thread, and writes the ids of the whole text.

The package is slow on one long text, for it keeps every character's place, so it is timed on the
whole, on lines, and on paragraphs without places, and the fastest counts.

usage: tokenize_speed.py TOKENIZER.json TEXT IDS
"""

import json
import re
import sys
import time

from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[1])
with open(sys.argv[2], encoding="utf-8", newline="") as file:
    text = file.read()
size = len(text.encode())

lines = text.splitlines(keepends=True)
paragraphs = re.split(r"(?<=\n\n)", text)
ways = {
    "whole": lambda: tokenizer.encode(text, add_special_tokens=False),
    "lines": lambda: tokenizer.encode_batch_fast(lines, add_special_tokens=False),
    "paragraphs": lambda: tokenizer.encode_batch_fast(paragraphs, add_special_tokens=False),
}
rates = {}
for name, way in ways.items():
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        way()
        best = min(best, time.perf_counter() - begin)
    rates[name] = size / best / 1e6

with open(sys.argv[3], "w") as file:
    print(*ways["whole"]().ids, file=file)
fastest = max(rates, key=rates.get)
print(json.dumps({"way": fastest, "encode_MB_per_s": rates[fastest]}))
