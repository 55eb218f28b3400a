"""Where and when the stores lie: the target grid, the days, the sizes of blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config


def days_of(config: Config) -> NDArray[np.datetime64]:
    """The days of the configured period, ``datetime64[D]``."""
    return np.arange(np.datetime64(config.period.start, "D"), np.datetime64(config.period.end, "D") + np.timedelta64(1, "D"))
