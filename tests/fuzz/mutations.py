"""Damage done to a file, of the kinds that disks, networks, other programs and strangers do."""

from __future__ import annotations

import copy
import json
import random
import struct

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 257, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
VALUES = (
    None,
    True,
    0,
    -1,
    1,
    0.5,
    1e308,
    2**63,
    10**400,
    "",
    "x" * 3000,
    "=1+1",
    "\u0000",
    "../../x",
    [],
    {},
    [[]],
    [None],
)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Damage a binary file once to four times."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice((_cut, _flip, _flip, _overwrite, _zeros, _insert, _number, _number, _header_number))(
            data, draw
        )
    return data


def damaged_json(text: str, draw: random.Random) -> bytes:
    """Damage a JSON file: its bytes, or one value, name or level of what it holds."""
    if draw.random() < 0.3:
        return damaged(text.encode(), draw)
    document = json.loads(text)
    for _ in range(draw.choice((1, 1, 2))):
        document = _with_another_value(document, draw)
    changed = json.dumps(document)
    if draw.random() < 0.05:
        changed = "[" * 5000 + changed + "]" * 5000
    return changed.encode(draw.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")), "replace")


def _with_another_value(document: object, draw: random.Random) -> object:
    """Replace, remove, rename or repeat one value anywhere in a JSON document."""
    places: list[tuple[dict | list, str | int]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            waiting.append(node[key])
    if not places:
        return copy.deepcopy(draw.choice(VALUES))
    node, key = draw.choice(places)
    match draw.randrange(6):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[draw.choice(("", "type", "x", "__class__"))] = node.pop(key)
        case 1 | 2 if isinstance(node, list):
            node.extend(copy.deepcopy(node[key]) for _ in range(draw.choice((1, 2, 50))))
        case 3:
            node[key] = [node[key]]
        case 4 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = draw.choice((-node[key], node[key] * 10**9, 0, 0.5, float("inf"), float("nan")))
        case _:
            node[key] = copy.deepcopy(draw.choice(VALUES))
    return document


def _place(data: bytes, draw: random.Random) -> int:
    """A place in the file; one in three in its first or last 512 bytes, where headers lie."""
    size = max(len(data), 1)
    near = draw.randrange(min(size, 512))
    return draw.choice((near, size - 1 - near, *[draw.randrange(size)] * 4))


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: _place(data, draw)]


def _flip(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :] if data else data


def _overwrite(data: bytes, draw: random.Random) -> bytes:
    at, length = _place(data, draw), draw.choice((1, 4, 64, 4096))
    return data[:at] + draw.randbytes(min(length, len(data) - at)) + data[at + length :]


def _zeros(data: bytes, draw: random.Random) -> bytes:
    at, length = _place(data, draw), draw.choice((4, 512, 4096, 65536))
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def _insert(data: bytes, draw: random.Random) -> bytes:
    at = _place(data, draw)
    return data[:at] + draw.randbytes(draw.choice((1, 2, 100))) + data[at:]


def _number(data: bytes, draw: random.Random) -> bytes:
    at, form = _place(data, draw), draw.choice(("<I", ">I", "<H", ">H", "<Q"))
    number = draw.choice(NUMBERS) & (2 ** (8 * struct.calcsize(form)) - 1)
    return data[:at] + struct.pack(form, number) + data[at + struct.calcsize(form) :]


def _header_number(data: bytes, draw: random.Random) -> bytes:
    """Change one number of one entry of a TIFF's directory (else any number)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 16:
        return _number(data, draw)
    start = struct.unpack_from(order + "I", data, 4)[0]
    directories: list[int] = []
    while 0 < start <= len(data) - 6 and len(directories) < 16:
        directories.append(start)
        after = start + 2 + 12 * struct.unpack_from(order + "H", data, start)[0]
        start = struct.unpack_from(order + "I", data, after)[0] if after <= len(data) - 4 else 0
    if not directories:
        return _number(data, draw)
    directory = draw.choice(directories)
    entry = directory + 2 + 12 * draw.randrange(max(1, struct.unpack_from(order + "H", data, directory)[0]))
    at, form = draw.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
    number = draw.choice((*NUMBERS, *directories)) & (2 ** (8 * struct.calcsize(form)) - 1)
    return data[: entry + at] + struct.pack(order + form, number) + data[entry + at + struct.calcsize(form) :]
