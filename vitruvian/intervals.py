"""How sure a share is that was counted."""

from __future__ import annotations

import math

_Z_95 = 1.959963984540054


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a share; it keeps a width where all or none of them are hits.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    share, z = hits / n, _Z_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
