"""The units of dispatch. Each op has one portable body; backends register other ones."""

from rfx.ops.bidirectional import bidirectional
from rfx.ops.carry import Carry
from rfx.ops.causal import causal
from rfx.ops.driver import Driver

__all__ = ["Carry", "Driver", "bidirectional", "causal"]
