"""A drawn map as a torch module: its arrays are buffers, or parameters to be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from rfx.features import DrawnMap

__all__ = ["FeatureModule"]


class FeatureModule(nn.Module):
    """Holds a drawn map, so that it moves and is saved with the model that it is a part of.

    Parameters
    ----------
    features : DrawnMap
        Drawn with ``like`` a torch tensor.
    trainable : bool
        Make the frequencies (every array but the fingerprint) parameters.

    Notes
    -----
    ``module()`` gives the drawn map with the tensors of the moment. ``.half()`` and
    ``.bfloat16()`` leave the arrays in float32, the working dtype of a map for half precision.

    Examples
    --------
    >>> import torch, rfx
    >>> from rfx_torch import FeatureModule
    >>> x = torch.zeros(1, 8, 4)
    >>> phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=x)
    >>> module = FeatureModule(phi)
    >>> sorted(module.state_dict())
    ['fingerprint', 'query_quadratic', 'query_weight']
    >>> rfx.linear_attention(x, x, x, features=module()).shape
    torch.Size([1, 8, 4])
    """

    def __init__(self, features: DrawnMap, *, trainable: bool = False) -> None:
        super().__init__()
        if not isinstance(features.fingerprint, Tensor):
            raise TypeError(
                "`features` must be drawn for torch, got arrays of another library; "
                "use features.to_like(tensor)"
            )
        self._features = features
        for name, array in features.arrays().items():
            if trainable and name != "fingerprint":
                self.register_parameter(name, nn.Parameter(array.clone()))
            else:
                self.register_buffer(name, array.clone())

    def forward(self) -> DrawnMap:
        """The drawn map with the module's tensors."""
        names = self._features.arrays()
        return self._features.with_arrays({name: getattr(self, name) for name in names})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def in_working_dtype(tensor: Tensor) -> Tensor:
            moved: Any = fn(tensor)
            narrow = moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device) if narrow else moved

        return super()._apply(in_working_dtype, recurse)
