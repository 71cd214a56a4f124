"""Damaged files, made from whole ones: mutation number n of a file is always the same.

Half of the mutations change bytes, knowing nothing of the format. The others take the header apart, change an
entry, and put it together again, so that what comes after it is read too.
"""

import json
import math
import random
import struct
from dataclasses import dataclass

LIMITS = [0, 1, 2, 3, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]

# ∞ and NaN in 32 bits and in 16, and numbers so large that their sum is ∞
NOT_FINITE = [b"\0\0\x80\x7f", b"\0\0\xc0\xff", b"\0\x7c\0\xfc", b"\xff\xff\xff\xff", b"\xff\xff\x7f\x7f"]


def damaged_bytes(content: bytes, rng: random.Random, header: int) -> bytes:
    """Flips, cuts, holes, copies, and limits in the place of numbers; mostly in the header."""
    changed = bytearray(content)
    at = rng.randrange(min(len(content), header) if rng.random() < 0.8 else len(content))
    match rng.randrange(7):
        case 0:
            for _ in range(rng.choice([1, 2, 10, 200])):
                changed[rng.randrange(min(len(content), header))] ^= 1 << rng.randrange(8)
        case 1:
            del changed[at:]
        case 2:
            del changed[at : at + rng.choice([1, 4, 8, 100])]
        case 3:
            changed[at:at] = rng.randbytes(rng.choice([1, 4, 8, 100]))
        case 4:
            changed[at : at + 8] = struct.pack("<Q", rng.choice(LIMITS))
        case 5:
            size = rng.choice([4, 8, 100, 5_000])
            changed[at : at + size] = rng.choice([b"\0", b"\xff", b"\x7f"]) * size
        case 6:
            other, size = rng.randrange(len(content)), rng.choice([4, 8, 50])
            changed[at : at + size] = content[other : other + size]
    return bytes(changed)


# GGUF

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, LIST = 8, 9


@dataclass
class Parts:
    """A GGUF file taken apart.

    settings: name, type, the value's bytes. tensors: name, sizes, type, offset.
    """

    counts: list[int]
    settings: list[tuple[bytes, int, bytes]]
    tensors: list[tuple[bytes, list[int], int, int]]
    data: bytes
    version: int = 3


def take_apart(content: bytes) -> Parts:
    at = 8

    def number(code):
        nonlocal at
        at += struct.calcsize(code)
        return struct.unpack_from(f"<{code}", content, at - struct.calcsize(code))[0]

    def string():
        nonlocal at
        length = number("Q")
        at += length
        return content[at - length : at]

    def value(kind):
        if kind == LIST:
            inner, count = number("I"), number("Q")
            for _ in range(count):
                value(inner)
        elif kind == STRING:
            string()
        else:
            number(CODES[kind])

    def setting():
        name, kind = string(), number("I")
        start = at
        value(kind)
        return name, kind, content[start:at]

    counts = [number("Q"), number("Q")]
    settings = [setting() for _ in range(counts[1])]
    tensors = [
        (string(), [number("Q") for _ in range(number("I"))], number("I"), number("Q"))
        for _ in range(counts[0])
    ]
    return Parts(counts, settings, tensors, content[-(-at // 32) * 32 :])


def put_together(parts: Parts) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", parts.version, *parts.counts)
    for name, kind, value in parts.settings:
        out += _text(name) + struct.pack("<I", kind) + value
    for name, sizes, kind, offset in parts.tensors:
        out += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return out + bytes(-len(out) % 32) + parts.data


def _text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def odd_value(rng: random.Random) -> tuple[int, bytes]:
    """The type and bytes of a setting's value."""
    match rng.randrange(8):
        case 0 | 1:
            return 10, struct.pack("<Q", rng.choice(LIMITS))
        case 2:
            return 11, struct.pack("<q", -rng.choice([1, 2, 2**31, 2**63]))
        case 3:
            values = [0.0, -1.0, 1e308, float("nan"), float("inf"), 0.5, 4.0]
            return 12, struct.pack("<d", rng.choice(values))
        case 4:
            return STRING, _text(
                rng.choice([b"", b"4", b"llama", b"\xff\xfe", "中".encode(), b"{% for", b"x" * 9_999])
            )
        case 5:  # a list: whole, of a length that it hasn't, of a type that doesn't exist
            count = rng.choice([0, 1, 3, *LIMITS])
            return LIST, struct.pack("<IQ", rng.choice([*CODES, STRING, 13, 99]), count) + bytes(
                8 * min(count, 3)
            )
        case 6:  # lists in lists
            depth = rng.choice([1, 2, 50, 5_000])
            return LIST, struct.pack("<IQ", LIST, 1) * depth + struct.pack("<IQI", 4, 1, 7)
        case _:
            return rng.choice([7, 13, 255, 2**32 - 1]), rng.randbytes(rng.choice([0, 1, 8]))


def damaged_gguf(content: bytes, n: int) -> bytes:
    rng = random.Random(n)
    if n % 2:
        return damaged_bytes(content, rng, header=9_000)
    parts = take_apart(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        _damage_gguf(parts, rng)
    return put_together(parts)


def _damage_gguf(parts: Parts, rng: random.Random) -> None:
    i, j = rng.randrange(len(parts.settings)), rng.randrange(len(parts.tensors))
    name, kind, value = parts.settings[i]
    tensor, sizes, type_, offset = parts.tensors[j]
    match rng.randrange(14):
        case 0 | 1 | 2:
            parts.settings[i] = (name, *odd_value(rng))
        case 3:
            parts.settings[i] = (name, rng.choice([*CODES, STRING, LIST]), value)
        case 4:
            parts.settings[i] = (
                rng.choice([parts.settings[0][0], b"", name + b"x", b"\xff", b"split.count"]),
                kind,
                value,
            )
        case 5:
            parts.counts[rng.randrange(2)] = rng.choice(LIMITS)
        case 6:
            parts.version = rng.choice([0, 1, 2, 4, 3 << 24, 2**32 - 1])
        case 7:
            del parts.settings[i]
            parts.counts[1] = max(parts.counts[1] - 1, 0)
        case 8:
            sizes = [rng.choice([*LIMITS, *sizes]) for _ in range(rng.choice([0, 1, 2, 3, 4, 5, 60]))]
            parts.tensors[j] = (tensor, sizes, type_, offset)
        case 9:
            parts.tensors[j] = (tensor, sizes[::-1], type_, offset)
        case 10:
            parts.tensors[j] = (tensor, sizes, rng.choice([*range(45), 2**32 - 1]), offset)
        case 11:
            parts.tensors[j] = (
                tensor,
                sizes,
                type_,
                rng.choice([*LIMITS, offset + 1, offset + 32, len(parts.data)]),
            )
        case 12:  # two tensors swap places, names, or share one
            k = rng.randrange(len(parts.tensors))
            other = parts.tensors[k]
            parts.tensors[j] = rng.choice(
                [(tensor, sizes, type_, other[3]), (other[0], sizes, type_, offset), other]
            )
        case 13:  # weights that are not finite
            data, at = bytearray(parts.data), offset % len(parts.data)
            data[at : at + 4] = rng.choice(
                [b"\0\0\x80\x7f", b"\0\0\xc0\xff", b"\0\x7c\0\x7c", b"\xff\xff\xff\xff"]
            )
            parts.data = bytes(data)


# safetensors, and JSON

ODD_JSON = [
    "-1",
    "0",
    "1",
    "2",
    "3",
    "65536",
    "1048576",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
]
ODD_JSON += ["1" + "0" * 400, "1" * 5_000, "0.5", "1e308", "1e999", "-0.0", "NaN", "Infinity", "-Infinity"]
ODD_JSON += ["null", "true", "false", '""', '"F32"', '"Decoder"', '"x"', '"\\ud800"', '"' + "x" * 9_999 + '"']
ODD_JSON += ["[]", "{}", "[1]", "[0, 16]", "[16, 0]", '{"a": 1}', '{"a":' * 500 + "1" + "}" * 500]
ODD_JSON += ["[" * depth + "]" * depth for depth in (50, 900, *range(930, 1_000, 5), 90_000)]


class Raw(float):
    """A value that `json` writes as this text."""

    def __new__(cls, text):
        made = super().__new__(cls, 0.0)
        made.text = text
        return made

    def __repr__(self):
        return self.text


def _to_json(x) -> str:
    if isinstance(x, Raw):
        return x.text
    if isinstance(x, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_to_json(value)}" for key, value in x.items()) + "}"
    if isinstance(x, list):
        return "[" + ", ".join(map(_to_json, x)) + "]"
    return json.dumps(x)


def damaged_json(x: object, rng: random.Random) -> object:
    """Change one entry, anywhere in it; a string of JSON is entered, too."""
    if isinstance(x, (dict, list)) and x and rng.random() < 0.9:
        key = rng.choice(list(x) if isinstance(x, dict) else range(len(x)))
        match rng.randrange(12):
            case 0:
                return {k: v for k, v in x.items() if k != key} if isinstance(x, dict) else x[:-1]
            case 1 if isinstance(x, dict):
                return {rng.choice([f"{k}x", "", *x]) if k == key else k: v for k, v in x.items()}
            case 1:
                return x[::-1]
            case 2 if isinstance(x, dict):
                return x | {key: x[rng.choice(list(x))]}
        changed = damaged_json(x[key], rng)
        return x | {key: changed} if isinstance(x, dict) else [*x[:key], changed, *x[key + 1 :]]
    if isinstance(x, str) and x.startswith("{"):
        try:
            return _to_json(damaged_json(json.loads(x), rng))
        except (ValueError, RecursionError):  # it was damaged before
            pass
    return Raw(rng.choice(ODD_JSON))


def damaged_json_file(content: bytes, n: int) -> bytes:
    rng = random.Random(n)
    if n % 2:
        return damaged_bytes(content, rng, header=len(content))
    return _to_json(damaged_json(json.loads(content), rng)).encode("utf-8", "surrogatepass")


def damaged_safetensors(content: bytes, n: int) -> bytes:
    """Damage bytes, the header as JSON, or the tensors themselves, in a header that agrees with them."""
    rng = random.Random(n)
    length = int.from_bytes(content[:8], "little")
    if n % 2:
        return damaged_bytes(content, rng, header=8 + length)
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    match rng.randrange(6):
        case 0 | 1:
            header = damaged_json(header, rng)
        case 2 | 3:  # only the course's own entry
            header["__metadata__"] = damaged_json(header["__metadata__"], rng)
        case _:
            header, data = _damage_tensors(header, data, rng)
    text = _to_json(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _damage_tensors(header: dict, data: bytes, rng: random.Random) -> tuple[dict, bytes]:
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    tensors = {
        name: [entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]]
        for name, entry in entries.items()
    }
    one, other = rng.choice(list(tensors)), rng.choice(list(tensors))
    dtype, shape, raw = tensors[one]
    match rng.randrange(8):
        case 0:
            del tensors[one]
        case 1:
            tensors[rng.choice([one + "x", "", "__metadata_", one.upper()])] = tensors.pop(one)
        case 2:
            tensors[one], tensors[other] = tensors[other], tensors[one]
        case 3:
            tensors[one] = [
                dtype,
                rng.choice([shape[::-1], [*shape, 1], [1, *shape], [math.prod(shape)]]),
                raw,
            ]
        case 4:
            tensors[one] = [rng.choice(["F32", "I8", "U8", "BOOL", "F8_E4M3", "F8_E8M0"]), [0], b""]
        case 5:
            size = math.prod(shape)
            kind, width = rng.choice(
                [("F64", 8), ("F16", 2), ("BF16", 2), ("I32", 4), ("F8_E4M3", 1), ("C64", 8)]
            )
            tensors[one] = [kind, shape, rng.choice([bytes(width * size), rng.randbytes(width * size)])]
        case 6 | 7:
            at = 4 * rng.randrange(max(len(raw) // 4, 1))
            tensors[one] = [dtype, shape, raw[:at] + rng.choice(NOT_FINITE)[: len(raw)] + raw[at + 4 :]]
    new, out = {name: entry for name, entry in header.items() if name == "__metadata__"}, b""
    for name, (dtype, shape, raw) in tensors.items():
        new[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(out), len(out) + len(raw)]}
        out += raw
    return new, out
