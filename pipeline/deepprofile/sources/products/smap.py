"""What the products of SMAP share: which of two versions of a granule stands."""

from __future__ import annotations

import re


def rank_of(release: str, counter: str | None) -> tuple[int, ...]:
    """The rank of a granule by its composite release identifier (``R19240``, ``Vv8011``) and its counter (``001``).

    Of two granules of the same time the one with the newer release stands, of one release that with the higher counter (NSIDC,
    on the granules that were made again after errors of the antenna's angle, https://nsidc.org/ru/node/47955).
    """
    digits = re.sub(r"\D", "", release)
    # Releases of tests (T) come before the official ones (R).
    return int(not release.startswith("T")), int(digits or 0), int(counter or 0)
