"""LARA and EVA beside the maps of a table: randomized attentions at the cost of m features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rfx.attention.eva import eva_attention
from rfx.attention.lara import lara_attention
from rfx.cli.inputs import Inputs

__all__ = ["Rival", "described", "layout", "proposals", "rivals"]


class Rival(NamedTuple):
    """A column of the table: ``estimate`` is called with a number of features and a seed."""

    title: str
    estimate: Callable[[int, int], Any]


def rivals(data: Inputs, is_causal: bool) -> Iterator[Rival]:
    """Those that serve these inputs: LARA in both directions only, EVA as many queries as keys."""
    q, k, v = data.query, data.key, data.value
    tokens = min(q.shape[-2], k.shape[-2])

    def lara(m: int, seed: int) -> Any:
        num = proposals(m, data.dim, v.shape[-1], tokens)
        return lara_attention(q, k, v, num_proposals=num, seed=seed)

    def eva(m: int, seed: int) -> Any:
        window, group = layout(m, tokens)
        call = {"window": window, "group_size": group, "seed": seed}
        return eva_attention(q, k, v, is_causal=is_causal, **call)

    if not is_causal:
        yield Rival("lara", lara)
    if q.shape[-2] == k.shape[-2]:
        yield Rival("eva", eva)


def proposals(m: int, d: int, e: int, tokens: int) -> int:
    """Proposals that cost a query what m features do: C (2d + e) = m (d + e)."""
    return max(min(m * (d + e) // (2 * d + e), tokens), 1)


def layout(m: int, tokens: int) -> tuple[int, int]:
    """A window and a group size, powers of two, of which a query sees at most m keys and groups.

    The window is half of m or a little less.
    """
    window = 1 << (max(m // 2, 1).bit_length() - 1)
    group = 1
    while -(-tokens // group) > max(m - window, 1):
        group *= 2
    return window, group


def described(data: Inputs, m: int, is_causal: bool) -> str:
    """What the columns stand for at m features."""
    tokens = min(data.query.shape[-2], data.key.shape[-2])
    window, group = layout(m, tokens)
    words = [f"eva windows of {window} and groups of {group} tokens"]
    if not is_causal:
        num = proposals(m, data.dim, data.value.shape[-1], tokens)
        words.insert(0, f"lara {num} proposals")
    return f"m = {m}: {', '.join(words)}"
