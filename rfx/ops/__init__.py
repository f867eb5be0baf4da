"""The units of dispatch. Each op has one portable body; backends register other ones."""

from rfx.ops.bidirectional import bidirectional
from rfx.ops.carry import Carry, empty
from rfx.ops.causal import causal
from rfx.ops.driver import EAGER, Driver, branch, scan
from rfx.ops.features import features
from rfx.ops.fwht import fwht

__all__ = [
    "EAGER",
    "Carry",
    "Driver",
    "bidirectional",
    "branch",
    "causal",
    "empty",
    "features",
    "fwht",
    "scan",
]
