"""Times training steps of a byte-level Mamba in PyTorch on a CPU and prints one JSON line.

Forward, mean cross-entropy, backward, clipping and AdamW, in float32, on random bytes: what
`adder bench train-step` times. Peers: transformers' MambaForCausalLM as it is without the CUDA
kernels, the same with mambapy's parallel scan, and mambapy's own model.
"""

import argparse
import json
import time

import torch


def build_model(arguments):
    if arguments.peer == "mambapy":
        # mambapy.lm imports CUDA-only packages, so the embedding and the head around its layers
        # are put here.
        from mambapy.mamba import Mamba, MambaConfig, RMSNorm

        config = MambaConfig(
            d_model=arguments.d_model, n_layers=arguments.n_layer, d_state=arguments.d_state
        )
        embedding = torch.nn.Embedding(arguments.vocab_size, arguments.d_model)
        model = torch.nn.Sequential(
            embedding,
            Mamba(config),
            RMSNorm(config.d_model, config.rms_norm_eps),
            torch.nn.Linear(arguments.d_model, arguments.vocab_size, bias=False),
        )
        model[-1].weight = embedding.weight
        return model, model

    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=arguments.vocab_size,
        hidden_size=arguments.d_model,
        num_hidden_layers=arguments.n_layer,
        state_size=arguments.d_state,
        tie_word_embeddings=True,
        use_cache=False,
        use_mambapy=arguments.peer == "transformers-mambapy",
    )
    model = MambaForCausalLM(config)
    return model, lambda tokens: model(tokens).logits


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer", choices=["transformers", "transformers-mambapy", "mambapy"], required=True
    )
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--n-layer", type=int, default=14)
    parser.add_argument("--d-state", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=256)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one warm-up")
    arguments = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(arguments.threads)
    model, logits_of = build_model(arguments)
    model.train()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    tokens = torch.randint(
        0, arguments.vocab_size, (arguments.batch, arguments.length + 1), dtype=torch.int64
    )

    seconds = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        logits = logits_of(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, arguments.vocab_size), tokens[:, 1:].reshape(-1)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)

    best = min(seconds[1:])
    print(
        json.dumps(
            {
                "peer": arguments.peer,
                "torch": torch.__version__,
                "parameters": parameters,
                "seconds_per_step": best,
                "tokens_per_s": arguments.batch * arguments.length / best,
            }
        )
    )


if __name__ == "__main__":
    main()
