#!/bin/bash
# Runs `adder eval tasks` and lm-evaluation-harness (transformers on the CPU) on the same model and
# the same files, and compares every log-likelihood and every metric. Sets up the harness in
# benchmarks/peers/.venv-lm-eval at first, on top of PyTorch in benchmarks/peers/.venv.
# usage: benchmarks/peers/lm_eval.sh MODEL_DIR DATA_DIR [TASK,TASK,...] [LIMIT]
#   DATA_DIR holds NAME.jsonl of each task, see docs/evaluation.md; all six tasks and 50 documents
#   of each where nothing else is said
set -euo pipefail

if [[ $# -lt 2 || $# -gt 4 ]]; then
  sed -n '5,7s/^# //p' "$0" >&2
  exit 2
fi
model=$(realpath "$1")
data=$(realpath "$2")
tasks=${3:-lambada_openai,hellaswag,piqa,arc_easy,arc_challenge,winogrande}
limit=${4:-50}
cd "$(dirname "$0")/../.."
adder=build/adder
[[ -x $adder ]] || { echo "$adder is missing: make build" >&2; exit 1; }

harness=benchmarks/peers/.venv-lm-eval
if [[ ! -e $harness/complete ]]; then
  benchmarks/peers/setup.sh
  python3 -m venv $harness
  site=$(cd benchmarks/peers && .venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
  echo "$site" > "$($harness/bin/python -c 'import site; print(site.getsitepackages()[0])')/peers.pth"
  $harness/bin/pip install --quiet "lm-eval[hf]"
  touch $harness/complete
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$adder" eval tasks --model "$model" --tasks "$tasks" --data "$data" --limit "$limit" \
  --output "$work/adder.jsonl" --json > "$work/adder.json"
# The harness is to see nothing but these files.
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$work/datasets" TOKENIZERS_PARALLELISM=false \
  $harness/bin/python benchmarks/peers/lm_eval_compare.py --model "$model" --tasks "$tasks" \
  --data "$data" --limit "$limit" --adder "$work/adder"
