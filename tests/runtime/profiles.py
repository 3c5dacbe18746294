"""Small ICC profiles, made here (ICC.1:2022, 7 and 10), and colour difference."""

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = np.array([0.95047, 1.0, 1.08883])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
PRIMARIES = {  # x, y of red, green and blue; white
    "P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65),
    "Adobe": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), D65),
    "sRGB": (((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)), D65),
    "ProPhoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50),
}


def number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def parametric(form: int, *numbers: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", form, 0) + b"".join(map(number, numbers))


def gamma(power: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256))


def table(light: np.ndarray) -> bytes:
    values = np.rint(np.asarray(light) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + values.tobytes()


SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
IDENTITY = b"curv\0\0\0\0\0\0\0\0"


def matrix(name: str) -> np.ndarray:
    """Linear RGB -> XYZ, adapted to D50."""
    corners, white = PRIMARIES[name]
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in corners]).T
    xyz = xyz * np.linalg.solve(xyz, white)
    scale = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ xyz


def profile(name: str, *curves: bytes, kind: bytes = b"RGB ") -> bytes:
    """One of primaries and curves (one for all channels, or three); kind GRAY: of the curve."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(number, D50))}
    if kind == b"GRAY":
        tags[b"kTRC"] = curves[0]
    else:
        three = curves if len(curves) == 3 else curves * 3
        for letter, column, curve in zip(b"rgb", matrix(name).T, three, strict=True):
            tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(map(number, column))
            tags[bytes([letter]) + b"TRC"] = curve
    listed, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        content = content.ljust(-(-len(content) // 4) * 4, b"\0")
        listed += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4xI", at + len(body), 0x04300000) + b"mntr" + kind + b"XYZ "
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(number, D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + listed + body


P3 = profile("P3", SRGB_CURVE)
ADOBE = profile("Adobe", gamma(563 / 256))
PROPHOTO = profile("ProPhoto", gamma(1.8))


def decode_srgb(codes: np.ndarray) -> np.ndarray:
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


def lab(codes: np.ndarray, name: str) -> np.ndarray:
    """Codes 0..1 [..., 3] of P3 or Adobe -> CIE L*a*b* (D50)."""
    light = decode_srgb(codes) if name == "P3" else codes ** (563 / 256)
    ratio = light @ matrix(name).T / D50
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def delta_e_2000(a: np.ndarray, b: np.ndarray, name: str) -> np.ndarray:
    """CIEDE2000 (Sharma, Wu and Dalal 2005) of codes 0..1."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(lab(c, name), -1, 0) for c in (a, b))
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    turn = np.where(c1 * c2 > 0, (h2 - h1 + 180) % 360 - 180, 0)
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    h = np.where(abs(h1 - h2) > 180, (h1 + h2 + 360) / 2, (h1 + h2) / 2)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    t = 1 + sum(k * np.cos(np.radians(n * h + shift)) for k, n, shift in waves)
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turning = 60 * np.exp(-(((h - 275) / 25) ** 2))
    rt = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(turning))
    x, y, z = (l2 - l1) / sl, (c2 - c1) / sc, hue / sh
    return np.sqrt(x**2 + y**2 + z**2 + rt * y * z)
