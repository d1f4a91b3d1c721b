"""One rule per operator, by family."""

from .mixing import MIXING
from .movement import MOVEMENT
from .perchannel import PER_CHANNEL
from .pointwise import POINTWISE
from .rule import Rule
from .selection import SELECTION

RULES: dict[str, Rule] = {**MIXING, **MOVEMENT, **SELECTION, **POINTWISE, **PER_CHANNEL}

__all__ = ["RULES", "Rule"]
