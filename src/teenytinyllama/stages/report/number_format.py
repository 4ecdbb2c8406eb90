"""Numbers for readers. Every function takes any value of a manifest, None included."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

NOT_RUN = "not run"
NOT_RECORDED = "not recorded"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether the value is a finite number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def count(value: Any) -> str:
    """A whole number with thousands separators.

    >>> count(162417408), count(None)
    ('162,417,408', 'not recorded')
    """
    return f"{value:,.0f}" if is_number(value) else NOT_RECORDED


def short(value: Any) -> str:
    """A large number with three significant digits and a unit.

    >>> [short(n) for n in (950, 12_300, 3_751_936_000)]
    ['950', '12.3 k', '3.75 B']
    """
    if not is_number(value):
        return NOT_RECORDED
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.4g}"


def size(value: Any) -> str:
    """Bytes in decimal units.

    >>> size(164_000_000)
    '164 MB'
    """
    if not is_number(value):
        return NOT_RECORDED
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} bytes"


def decimal(value: Any, digits: int = 3) -> str:
    """A number with a fixed number of digits after the point."""
    return f"{value:,.{digits}f}" if is_number(value) else NOT_RECORDED


def percent(value: Any, digits: int = 1) -> str:
    """A fraction from 0 to 1 as a percentage.

    >>> percent(0.2615, 2)
    '26.15 %'
    """
    return f"{100 * value:.{digits}f} %" if is_number(value) else NOT_RECORDED


def fewer_bits(below: float, digits: int = 1) -> str:
    """A model against a baseline, where `below` is the fraction of bits that it saves.

    >>> fewer_bits(0.412), fewer_bits(-0.1, 0)
    ('41.2 % fewer bits', '10 % more bits')
    """
    return f"{percent(abs(below), digits)} {'fewer' if below >= 0 else 'more'} bits"


def duration(seconds: Any) -> str:
    """Seconds as a readable length of time.

    >>> [duration(s) for s in (4.24, 75, 139_415)]
    ['4.2 s', '1 min 15 s', '38 h 43 min']
    """
    if not is_number(seconds):
        return NOT_RECORDED
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def energy(kwh: Any) -> str:
    """Kilowatt-hours; below 1 kWh, watt-hours.

    >>> [energy(e) for e in (15.52, 0.00213, 0.0)]
    ['15.52 kWh', '2.13 Wh', '0 Wh']
    """
    if not is_number(kwh):
        return NOT_RECORDED
    if abs(kwh) >= 1:
        return f"{kwh:,.2f} kWh"
    return f"{1000 * kwh:.3g} Wh"


def mass(kg: Any) -> str:
    """Kilograms of CO2 equivalent; below 1 kg, grams.

    >>> [mass(m) for m in (5.67, 0.00034)]
    ['5.67 kg', '0.34 g']
    """
    if not is_number(kg):
        return NOT_RECORDED
    return f"{kg:,.2f} kg" if abs(kg) >= 1 else f"{1000 * kg:.3g} g"


def money(usd: Any) -> str:
    """US dollars.

    >>> [money(m) for m in (49.957, 0.0042)]
    ['$49.96', '$0.0042']
    """
    if not is_number(usd):
        return NOT_RECORDED
    return f"${usd:,.2f}" if usd >= 0.1 or usd == 0 else f"${usd:.2g}"


def plain(value: Any) -> str:
    """Any value of a manifest as text."""
    if value is None:
        return NOT_RECORDED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)
