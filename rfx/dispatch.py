"""Which code runs: ops with one portable body each, and the fast paths that backends register.

A backend is an import package that exports ``FAST_PATHS``, a tuple of `FastPath`, under an entry
point of the group ``rfx.backends`` named after its array library. It is loaded once, when a map is
made for that library; from then on a choice is a walk through a plain tuple, which
``torch.compile`` and ``jax.jit`` trace through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rfx._check import positive_int
from rfx._xp import check_threads, device_kind, full_precision, library, torch_threads
from rfx.threads import blas_limit

__all__ = [
    "Explanation",
    "FastPath",
    "Op",
    "check_implementation",
    "current_threads",
    "explain",
    "load",
    "op",
    "options",
    "planned",
]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class FastPath:
    """Another implementation of an op, for one library.

    Parameters
    ----------
    op : str
        Name of the op, such as ``"causal"``.
    library : str
        Such as ``"torch"``.
    name : str
        What ``implementation=`` takes to force it.
    function : callable
        With the op's own signature.
    devices : tuple of str
        Kinds of device that it serves, such as ``("cpu", "cuda")``.
    refuse : callable, optional
        Called with the op's arguments; a sentence refuses them, None accepts them. It may read
        static facts only: dtypes, shapes, options, the drawn form.
    by_name : bool
        It runs only where it is asked for by name, as what compiles for seconds should.
    defer : callable, optional
        As ``refuse``, but not heeded where the path is asked for by name: for calls that it serves,
        and that others serve better.
    """

    op: str
    library: str
    name: str
    function: Callable[..., Any]
    devices: tuple[str, ...]
    refuse: Callable[..., str | None] | None = None
    by_name: bool = False
    defer: Callable[..., str | None] | None = None

    def refusal(self, *args: Any, by_name: bool = False, **kwargs: Any) -> str | None:
        """Why this path does not serve these arguments, or None."""
        kind = device_kind(args[1])
        if kind is not None and kind not in self.devices:
            return f"{self.name} serves {' and '.join(self.devices)}, but the arrays are on {kind}"
        for refuse in (self.refuse, None if by_name else self.defer):
            sentence = None if refuse is None else refuse(*args, **kwargs)
            if sentence is not None:
                return sentence
        return None


@dataclass(frozen=True)
class Explanation:
    """What `explain` found: which implementation would run, and why others would not."""

    function: str
    op: str | None
    library: str | None
    implementation: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"{self.function} on {self.library} arrays"
        runs = (
            f"runs op {self.op!r} as {self.implementation!r}" if self.op else "runs portable code"
        )
        return "\n".join([f"{what} {runs}", *(f"  {reason}" for reason in self.reasons)])


@dataclass
class _Options:
    implementation: str | None = None
    threads: int | None = None


_options = _Options()
_loaded: dict[str, tuple[FastPath, ...]] = {}


@dataclass(frozen=True)
class Op:
    """A unit of dispatch: a portable body in standard calls, and the choice of a faster one.

    The first argument of every op is the drawn map, the second the array that decides.
    """

    name: str
    portable: Callable[..., Any]
    __doc__: str = field(default="", compare=False)

    def __call__(self, *args: Any, implementation: str | None = None, **kwargs: Any) -> Any:
        chosen, _ = self.choose(*args, implementation=implementation, **kwargs)
        if _options.threads is not None:
            check_threads(args[1])
        with full_precision(args[1]):
            return chosen(*args, **kwargs)

    def choose(
        self, *args: Any, implementation: str | None = None, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[str, tuple[str, ...]]]:
        """The function that would run, its name, and a sentence for each path passed over."""
        forced = _forced(self.name, args[1]) if implementation is None else implementation
        if forced == "portable":
            return self.portable, ("portable", ("asked for by name",))
        mine = [path for path in _loaded.get(str(library(args[1])), ()) if path.op == self.name]
        reasons: list[str] = []
        for path in mine:
            if path.name != forced if forced is not None else path.by_name:
                continue
            refusal = path.refusal(*args, by_name=forced is not None, **kwargs)
            if refusal is None:
                return path.function, (path.name, tuple(reasons))
            reasons.append(f"{path.name} refused: {refusal}")
        if forced is not None:
            known = ", ".join(["portable", *(path.name for path in mine)])
            why = "; ".join(reasons) or f"there is no such path here, known are {known}"
            raise ValueError(f"`implementation` {forced!r} cannot run op {self.name!r}: {why}")
        if not mine:
            reasons.append(f"no fast path is registered for {library(args[1])}")
        return self.portable, ("portable", tuple(reasons))


def _forced(op: str, array: Any) -> str | None:
    """What ``rfx.options`` demands of an op: nothing, if the path that is named is another op's."""
    name = _options.implementation
    ops = {path.op for path in _loaded.get(str(library(array)), ()) if path.name == name}
    return None if ops and op not in ops else name


def check_implementation(implementation: Any) -> None:
    """Refuse a name that is no string."""
    if not isinstance(implementation, str | None):
        raise TypeError(
            f"`implementation` must be a string, got {implementation!r}; pass 'portable' or the "
            "name of a fast path"
        )


def op(name: str) -> Callable[[Callable[..., Any]], Op]:
    """Make an op of its portable body."""

    def wrap(body: Callable[..., Any]) -> Op:
        return Op(name, body, body.__doc__ or "")

    return wrap


def planned(plan: Callable[..., Any]) -> Callable[[Function], Function]:
    """Give a public function its plan, for `explain`.

    A plan checks the arguments and returns the op with its arguments, or None in the place of the
    op and the array that decides first.
    """

    def attach(function: Function) -> Function:
        plan.__name__ = plan.__qualname__ = function.__name__  # what errors call it
        setattr(function, "plan", plan)  # noqa: B010, mypy knows no attributes of functions
        return function

    return attach


def load(name: str) -> tuple[FastPath, ...]:
    """Load the fast paths registered for a library, once."""
    if name not in _loaded:
        from importlib.metadata import entry_points  # 30 ms, so not at import

        _loaded[name] = tuple(
            path for entry in entry_points(group="rfx.backends", name=name) for path in entry.load()
        )
    return _loaded[name]


def current_threads() -> int | None:
    """The number of threads of ``rfx.options``, or None outside of it: for backends."""
    return _options.threads


@contextmanager
def options(*, implementation: str | None = None, threads: int | None = None) -> Iterator[None]:
    """Set options for the calls inside a ``with`` block.

    They hold for the whole process, all threads included, and are read when a call is made: a
    function already compiled by ``jax.jit`` or ``torch.compile`` keeps what it was traced with.
    Blocks may be nested; what is not given stays as it was.

    Parameters
    ----------
    implementation : str, optional
        ``"portable"``, or the name of a fast path, for every op that has a path of this name; it
        must be able to run.
    threads : int, optional
        Threads of the host to compute with. By default each library decides, as it was told by its
        own means; NumPy's paths take the number that its BLAS has. Inside the block BLAS is held to
        this number in the whole process, and torch, if it is imported, in the thread that entered
        the block, whatever calls them; both get their own numbers back. Of blocks that overlap in
        several threads BLAS heeds the lowest number. JAX fixes its threads when it starts, so that
        calls on its arrays are refused. Results differ by rounding only.

    Raises
    ------
    TypeError, ValueError
        If ``implementation`` is no string, or ``threads`` no positive int.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.zeros((1, 8, 4))
    >>> phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=x)
    >>> with rfx.options(implementation="portable", threads=1):
    ...     rfx.linear_attention(x, x, x, features=phi).shape
    (1, 8, 4)
    """
    check_implementation(implementation)
    if threads is not None:
        positive_int("threads", threads)
    before = replace(_options)
    _options.implementation = implementation or before.implementation
    _options.threads = threads or before.threads
    try:
        with ExitStack() as stack:
            if threads is not None:
                stack.enter_context(blas_limit(threads))
                stack.enter_context(torch_threads(threads))
            yield
    finally:
        _options.implementation, _options.threads = before.implementation, before.threads


def explain(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Say which code a call would run, without running it.

    Parameters
    ----------
    function : callable
        ``rfx.linear_attention``, ``rfx.kernel_attention`` or ``rfx.gram``.
    *args, **kwargs
        What it would be called with; checked as the call would check them.

    Returns
    -------
    Explanation
        Printed, it names the implementation and gives a sentence for each refusal.

    Raises
    ------
    TypeError
        If ``function`` is another one.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.zeros((1, 8, 4))
    >>> phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=x)
    >>> print(rfx.explain(rfx.linear_attention, x, x, x, features=phi))
    linear_attention on numpy arrays runs op 'bidirectional' as 'portable'
      numpy-numba-step refused: it serves one query and one key, a step of decoding
      numpy-step refused: it serves one query and one key, a step of decoding
      numpy-numba refused: it serves float32, and an array is float64
      numpy-fused refused: 8 rows are too few to work head by head
      numpy-threads refused: 8 rows are too few to work head by head
    """
    plan = getattr(function, "plan", None)
    if plan is None:
        raise TypeError(
            "`function` must be rfx.linear_attention, rfx.kernel_attention or rfx.gram, "
            f"got {function!r}"
        )
    used, call_args, call_kwargs = plan(*args, **kwargs)
    name = getattr(function, "__name__", str(function))
    if used is None:
        return Explanation(name, None, library(call_args[0]), "portable", ("it has no other path",))
    _, (chosen, reasons) = used.choose(*call_args, **call_kwargs)
    return Explanation(name, used.name, library(call_args[1]), chosen, reasons)
