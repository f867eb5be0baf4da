"""Run jobs read from standard input as JSON, and print the result of each as a line of JSON."""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module
from typing import Any

__all__ = ["answer"]


def answer(module: str, case: str, method: str, params: list[Any]) -> dict[str, Any]:
    """Set up a benchmark and call its method; NotImplementedError is a skip, as in asv."""
    instance = getattr(import_module(f"asv_bench.{module}"), case)()
    try:
        instance.setup(*params)
        return {"result": getattr(instance, method)(*params)}
    except NotImplementedError as error:
        return {"skipped": str(error)}


if __name__ == "__main__":
    for job in json.load(sys.stdin):
        print(json.dumps(answer(**job)), flush=True)
        gc.collect()  # the arrays of one job are not to be in the way of the next
