"""Depth inside of photos. Files are built here by hand, from the published formats, and what argan
writes is read here by hand: reader and writer can't share a mistake."""

import base64
import hashlib
import io
import json
import re
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import argan
from argan import depth_files, embedded, photo, xmp
from argan.cli import main
from argan.errors import Error, InputError
from argan.refocus import find_embedded

DATA = Path(__file__).parents[1] / "data"
SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "samples"
PUG, TABLE = SAMPLES / "iphone_pug_depth.heic", SAMPLES / "android_lensblur_gdepth.jpg"
TINY = str(DATA / "tiny.argan")

# A photo and a map of four quarters, all different: no turn or mirror leaves them the same.
QUARTERS = np.kron(np.array([[40, 100], [160, 220]]), np.ones((24, 32))).astype(np.uint8)
TURNS = range(1, 9)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray = QUARTERS, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[photo.ORIENTATION] = orientation
    exif[0x010F] = "Maker"
    rgb = np.repeat(pixels[..., None], 3, axis=2)
    return encoded(rgb, "JPEG", quality=95, subsampling=0, exif=exif.tobytes())


def app1(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def packet(description: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta'
        ' xmlns:x="adobe:ns:meta/"><rdf:RDF'
        ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'{description}</rdf:RDF></x:xmpmeta>   <?xpacket end="w"?>'
    ).encode()


def with_xmp(
    data: bytes, description: str, extension: str = "", parts: list[bytes] | None = None
) -> bytes:
    """A JPEG with a packet, and an extension in segments of 700 bytes, or these parts of one."""
    segments = app1(b"http://ns.adobe.com/xap/1.0/\0" + packet(description))
    if extension:
        body = packet(extension)
        parts = [part_of(body, at, body[at : at + 700]) for at in range(0, len(body), 700)]
    return data[:2] + segments + b"".join(parts or ()) + data[2:]


def part_of(body: bytes, at: int, piece: bytes, whole: int | None = None) -> bytes:
    head = struct.pack(">II", len(body) if whole is None else whole, at)
    return app1(b"http://ns.adobe.com/xmp/extension/\0" + GUID.encode() + head + piece)


GUID = "0123456789ABCDEF0123456789ABCDEF"
NOTE = f'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{GUID}"'
GD = 'xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/"'


def description(attributes: str) -> str:
    return f'<rdf:Description rdf:about="" {attributes}/>'


def text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def gdepth(
    values: np.ndarray = QUARTERS,
    data: bytes | None = None,
    picture: bytes | None = None,
    near: object = 0.5,
    far: object = 4,
    coding: str = "RangeInverse",
    more: str = "",
) -> bytes:
    inside = text(picture if picture is not None else encoded(values))
    return with_xmp(data or jpeg(), description(
        f'{GD} GDepth:Format="{coding}" GDepth:Near="{near}" GDepth:Far="{far}"'
        f' GDepth:Mime="image/png" GDepth:Data="{inside}" {more}'
    ))  # fmt: skip


# ---------------------------------------------------------------- GDepth


@pytest.mark.parametrize("depth", ["8 bit", "16 bit", "JPEG", "colours"])
@pytest.mark.parametrize("coding", ["RangeInverse", "RangeLinear"])
@pytest.mark.parametrize("unit, metre", [("m", 1), ("mm", 1000)])
def test_gdepth_in_metres(unit, metre, coding, depth):
    picture = {
        "8 bit": encoded(QUARTERS),
        "16 bit": encoded(QUARTERS.astype(np.uint16) * 257),
        "JPEG": encoded(QUARTERS, "JPEG", quality=100),
        "colours": encoded(np.repeat(QUARTERS[..., None], 3, axis=2)),
    }[depth]
    found = embedded.read(gdepth(
        picture=picture, near=0.5 * metre, far=4 * metre, coding=coding,
        more=f'GDepth:Units="{unit}"',
    ))  # fmt: skip
    assert (found.metric, found.kind, found.disparity.dtype) == (True, "GDepth", np.float32)
    # From the encoding page of the format: dn of a depth d, turned round by hand.
    for (y, x), v in {(5, 5): 40 / 255, (5, 60): 100 / 255, (45, 60): 220 / 255}.items():
        if coding == "RangeInverse":
            metres = 4 * 0.5 / (4 - v * (4 - 0.5))
        else:
            metres = 0.5 + v * (4 - 0.5)
        gap = 2e-2 if depth == "JPEG" else 1e-5
        assert 1 / found.disparity[y, x] == pytest.approx(metres, rel=gap)


@pytest.mark.parametrize("coding, middle", [("RangeInverse", 0.6), ("RangeLinear", 1 / 4.6)])
def test_gdepth_without_a_unit_is_relative(coding, middle):
    values = np.array([[0, 102, 255]] * 2, np.uint8)
    data = jpeg(np.full((16, 24), 99, np.uint8))
    # Depths 2 to 20, and 9.2 in the middle where even in depth: of (1/9.2 - 1/20) / (1/2 - 1/20).
    found = embedded.read(gdepth(values, data, near=2, far=20, coding=coding))
    if coding == "RangeLinear":
        middle = (1 / 9.2 - 1 / 20) / (1 / 2 - 1 / 20)
    assert not found.metric
    np.testing.assert_allclose(found.disparity[0], [1, middle, 0], atol=1e-6)


def test_gdepth_as_elements_and_in_two_descriptions():
    names = {"Format": "RangeLinear", "Near": "1", "Far": "5", "Units": "m"}
    elements = "".join(f"<GDepth:{k}>\n{v} </GDepth:{k}>" for k, v in names.items())
    data = f"<GDepth:Data>{text(encoded(QUARTERS))}</GDepth:Data>"
    found = embedded.read(with_xmp(jpeg(), (
        f'<rdf:Description {GD}>{elements}</rdf:Description>'
        f'<rdf:Description {GD}>{data}</rdf:Description>'
    )))  # fmt: skip
    assert 1 / found.disparity[5, 5] == pytest.approx(1 + 40 / 255 * 4)


@pytest.mark.parametrize("orientation", TURNS)
def test_gdepth_is_turned_as_the_photo_is(orientation, tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(gdepth(255 - QUARTERS, jpeg(orientation=orientation)))
    upright = photo.load(path).pixels[..., 0]
    disparity = embedded.read(path).disparity  # dark is near: as bright as the photo
    assert disparity.shape == upright.shape
    # Largest gap seen 2 of 255: JPEG.
    np.testing.assert_allclose(disparity[::4, ::4] * 255, upright[::4, ::4], atol=4)


def small_part(unit: str = "") -> str:
    return description(
        f'{GD} {NOTE} GDepth:Format="RangeInverse" GDepth:Near="1" GDepth:Far="3" {unit}'
    )


NOISE = np.random.default_rng(5).integers(0, 256, (48, 64), dtype=np.uint8)


def extension_body() -> bytes:
    return packet(description(f'{GD} GDepth:Data="{text(encoded(NOISE))}"'))


def cut(body: bytes, size: int = 1500) -> list[bytes]:
    return [part_of(body, at, body[at : at + size]) for at in range(0, len(body), size)]


@pytest.mark.parametrize("order", ["in order", "backwards", "one twice", "with another's"])
def test_extended_xmp(order):
    parts = cut(extension_body())
    assert len(parts) > 2
    if order == "backwards":
        parts = parts[::-1]
    elif order == "one twice":
        parts = parts + parts[:1]
    elif order == "with another's":
        other = part_of(b"", 0, b"junk", 4).replace(GUID.encode(), b"F" * 32)
        parts = [other, *parts]
    found = embedded.read(with_xmp(jpeg(), small_part(), parts=parts))
    np.testing.assert_allclose(found.disparity, 1 - NOISE / 255, atol=1e-6)


def test_original_photo_of_gimage():
    before = np.full((48, 64), 30, np.uint8)
    before[:, :20] = 200
    image = text(encoded(before, "JPEG", quality=95))
    data = gdepth(data=jpeg(orientation=6), more=(
        'xmlns:GImage="http://ns.google.com/photos/1.0/image/" GImage:Mime="image/jpeg"'
        f' GImage:Data="{image}"'
    ))  # fmt: skip
    original = embedded.read(data).original
    assert original.pixels.shape == (64, 48, 3)
    assert abs(original.pixels[:16].astype(int) - 200).max() < 9  # the left is on top
    exif = Image.Exif()
    exif.load(original.exif)
    assert dict(exif) == {photo.ORIENTATION: 1, 0x010F: "Maker"}


def test_no_depth():
    assert embedded.read(jpeg()) is None
    assert embedded.read(with_xmp(jpeg(), description(f'{GD} GDepth:Format="RangeLinear"'))) is None
    assert embedded.read(encoded(QUARTERS)) is None
    assert embedded.read(b"") is None


# ---------------------------------------------------------------- holes


def test_holes_are_nan_and_get_what_lies_behind():
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[10:30, 28:40] = 0  # at the edge between the left and the right quarter
    alpha[40] = 0
    found = embedded.read(gdepth(
        picture=encoded(np.dstack([QUARTERS, alpha])), coding="RangeInverse",
        more='GDepth:Units="m"',
    ))  # fmt: skip
    np.testing.assert_array_equal(np.isnan(found.disparity), alpha == 0)
    whole = embedded.read(gdepth(more='GDepth:Units="m"')).disparity
    filled = found.filled()
    np.testing.assert_array_equal(filled[alpha == 255], whole[alpha == 255])
    np.testing.assert_array_equal(filled[12, 28:40], whole[12, 63])  # 100 is farther than 40
    np.testing.assert_array_equal(filled[40], whole[41])


def test_depth_zero_is_a_hole():
    values = QUARTERS.copy()
    values[3, 4] = 0
    found = embedded.read(gdepth(values, near=0, coding="RangeLinear", more='GDepth:Units="m"'))
    assert np.argwhere(np.isnan(found.disparity)).tolist() == [[3, 4]]
    assert np.isfinite(found.filled()).all()


def test_nothing_but_holes():
    clear = np.dstack([QUARTERS, np.zeros_like(QUARTERS)])
    with pytest.raises(InputError, match="no valid value"):
        embedded.read(gdepth(picture=encoded(clear)))


# ---------------------------------------------------------------- Dynamic Depth

DD = "http://ns.google.com/photos/dd/1.0/"
SPACES = " ".join(
    f'xmlns:{name}="{DD}{name.lower()}/"'
    for name in ("Device", "Container", "Item", "Camera", "DepthMap", "Image")
)
MAP = {"Format": "RangeInverse", "Near": "0.5", "Far": "4", "Units": "Meters", "DepthURI": "d"}


def struct_of(name: str, prefix: str, fields: dict[str, str], style: str) -> str:
    """An RDF structure in one of the ways that RDF allows."""
    if style == "attributes":
        return f"<{name} " + " ".join(f'{prefix}:{k}="{v}"' for k, v in fields.items()) + "/>"
    inside = "".join(f"<{prefix}:{k}>{v}</{prefix}:{k}>" for k, v in fields.items())
    if style == "resource":
        return f'<{name} rdf:parseType="Resource">{inside}</{name}>'
    return f"<{name}><rdf:Description>{inside}</rdf:Description></{name}>"


def dynamic(
    appended: dict[str, bytes],
    depth: dict[str, str] = MAP,
    style: str = "attributes",
    padding: int = 0,
    orientation: int = 1,
    lengths: dict[str, object] | None = None,
    cameras: str = "",
) -> bytes:
    items = struct_of("Container:Item", "Item", {
        "Mime": "image/jpeg", "Length": "0", "Padding": str(padding), "DataURI": "primary",
    }, style)  # fmt: skip
    entries = [items]
    for uri, body in appended.items():
        length = (lengths or {}).get(uri, len(body))
        entries.append(struct_of("Container:Item", "Item", {
            "Mime": "image/png", "Length": str(length), "DataURI": uri}, style))  # fmt: skip
    listed = "".join(f'<rdf:li rdf:parseType="Resource">{entry}</rdf:li>' for entry in entries)
    camera = struct_of("Camera:DepthMap", "DepthMap", depth, style)
    body = (
        f"<rdf:Description {SPACES}><Device:Container><Container:Directory><rdf:Seq>{listed}"
        "</rdf:Seq></Container:Directory></Device:Container><Device:Cameras><rdf:Seq>"
        f'{cameras}<rdf:li rdf:parseType="Resource"><Device:Camera rdf:parseType="Resource">'
        f"{camera}</Device:Camera></rdf:li></rdf:Seq></Device:Cameras></rdf:Description>"
    )
    photograph = with_xmp(jpeg(orientation=orientation), body)
    return photograph + b"\0" * padding + b"".join(appended.values()) + b"trailer of the maker"


@pytest.mark.parametrize("style", ["attributes", "resource", "description"])
@pytest.mark.parametrize("padding", [0, 5])
def test_dynamic_depth(padding, style):
    # A gain map with an end-of-image marker of its own lies before the map.
    found = embedded.read(dynamic(
        {"gain": jpeg(), "d": encoded(QUARTERS)}, style=style, padding=padding
    ))  # fmt: skip
    assert (found.kind, found.metric) == ("Dynamic Depth", True)
    v = 160 / 255
    assert 1 / found.disparity[40, 5] == pytest.approx(4 * 0.5 / (4 - v * 3.5), rel=1e-5)


@pytest.mark.parametrize("coding", ["RangeInverse", "RangeLinear"])
def test_dynamic_depth_in_dioptres(coding):
    """Near and far are 1/m, and so is what the coding gives."""
    said = {**MAP, "Near": "2", "Far": "0.25", "Units": "Diopters", "Format": coding}
    found = embedded.read(dynamic({"d": encoded(QUARTERS)}, said))
    near, far, v = 2, 0.25, 160 / 255
    expected = far * near / (far - v * (far - near))
    if coding == "RangeLinear":
        expected = near + v * (far - near)
    assert found.disparity[40, 5] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("orientation", TURNS)
def test_dynamic_depth_is_turned_as_the_photo_is(orientation, tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(dynamic({"d": encoded(255 - QUARTERS)}, {**MAP, "Units": "None"},
                             orientation=orientation))  # fmt: skip
    found, upright = embedded.read(path), photo.load(path).pixels[..., 0]
    assert not found.metric
    np.testing.assert_allclose(found.disparity[::4, ::4] * 255, upright[::4, ::4], atol=4)


def test_dynamic_depth_of_confidence_0_is_a_hole():
    sure = np.full((24, 32), 255, np.uint8)  # half the size
    sure[:, 16:] = 51
    sure[:6, :16] = 0
    found = embedded.read(dynamic(
        {"d": encoded(QUARTERS), "sure": encoded(sure)}, {**MAP, "ConfidenceURI": "sure"},
        orientation=3,
    ))  # fmt: skip
    assert found.confidence.shape == found.disparity.shape
    assert [found.confidence[5, x] for x in (60, 5)] == pytest.approx([1, 0.2])
    assert np.isnan(found.disparity[-10:, -30:]).all() and np.isfinite(found.disparity[:30]).all()


def test_original_photo_of_dynamic_depth():
    before = np.full((48, 64), 77, np.uint8)
    cameras = (
        '<rdf:li rdf:parseType="Resource"><Device:Camera><Camera:Image'
        ' Image:ItemSemantic="Original" Image:ItemURI="o"/></Device:Camera></rdf:li>'
    )
    found = embedded.read(dynamic(
        {"o": encoded(before, "JPEG", quality=95), "d": encoded(QUARTERS)}, cameras=cameras
    ))  # fmt: skip
    assert abs(found.original.pixels.astype(int) - 77).max() < 3


def test_a_mask_is_no_depth():
    masks = {**MAP, "ItemSemantic": "Segmentation"}
    assert embedded.read(dynamic({"d": encoded(QUARTERS)}, masks)) is None


# ---------------------------------------------------------------- HEIF

STILLS = {
    name: {k: base64.b64decode(v) if isinstance(v, str) else v for k, v in still.items()}
    for name, still in json.loads((DATA / "hevc.json").read_text()).items()
}
# The colours of the photo's quarters, and the values of the map's.
COLOURS = {(220, 40, 40): 40, (40, 200, 40): 100, (40, 40, 220): 160, (230, 220, 60): 220}
AUXILIARY = b"urn:mpeg:hevc:2015:auxid:2\0"
APPLE = (
    '<rdf:Description xmlns:apdi="http://ns.apple.com/pixeldatainfo/1.0/"'
    ' xmlns:depthData="http://ns.apple.com/depthData/1.0/">'
    "<apdi:IntMaxValue>255</apdi:IntMaxValue><apdi:IntMinValue>0</apdi:IntMinValue>"
    "<apdi:FloatMaxValue>3.5</apdi:FloatMaxValue><apdi:FloatMinValue>0.5</apdi:FloatMinValue>"
    "<apdi:AuxiliaryImageType>%s</apdi:AuxiliaryImageType>"
    "<depthData:Accuracy>absolute</depthData:Accuracy></rdf:Description>"
)


def box(name: bytes, body: bytes, version: int | None = None, flags: int = 0) -> bytes:
    if version is not None:
        body = struct.pack(">I", version << 24 | flags) + body
    return struct.pack(">I", len(body) + 8) + name + body


def heif_file(
    turns: list[tuple[bytes, int]] = [],  # noqa: B006
    depth_turns: list[tuple[bytes, int]] | None = None,
    kind: str | None = "disparity",
) -> bytes:
    """A photo (item 1) and its depth map (item 2), with the map's XMP (item 3), by ISO/IEC
    23008-12; `kind` None leaves the XMP out."""
    said = packet(APPLE % kind) if kind else b""
    properties, links = [], []
    for still, turned, more in (
        (STILLS["photo"], turns, [box(b"pixi", b"\3\x08\x08\x08", 0)]),
        (STILLS["depth"], depth_turns, [box(b"pixi", b"\1\x08", 0), box(b"auxC", AUXILIARY, 0)]),
    ):
        size = struct.pack(">2I", still["width"], still["height"])
        mine = [box(b"hvcC", still["hvcC"]), box(b"ispe", size, 0), *more]
        mine += [box(name, bytes([value])) for name, value in turned or []]
        links.append(list(range(len(properties) + 1, len(properties) + 1 + len(mine))))
        properties += mine
    ipma = struct.pack(">I", 2)
    for item, link in enumerate(links, 1):
        ipma += struct.pack(">HB", item, len(link)) + bytes(index | 0x80 for index in link)
    iprp = box(b"iprp", box(b"ipco", b"".join(properties)) + box(b"ipma", ipma, 0))

    def entry(item: int, name: bytes, tail: bytes = b"\0") -> bytes:
        return box(b"infe", struct.pack(">2H", item, 0) + name + tail, 2)

    entries = [entry(1, b"hvc1"), entry(2, b"hvc1"), entry(3, b"mime", b"\0application/rdf+xml\0")]
    iref = box(b"iref", b"".join(
        box(name, struct.pack(">3H", item, 1, to))
        for name, item, to in ((b"auxl", 2, 1), (b"cdsc", 3, 2))
    ), 0)  # fmt: skip
    bodies = [STILLS["photo"]["data"], STILLS["depth"]["data"], said]

    def meta(start: int) -> bytes:
        iloc = b"\x44\0" + struct.pack(">H", 3)
        for item, body in enumerate(bodies, 1):
            iloc += struct.pack(">HHHII", item, 0, 1, start, len(body))
            start += len(body)
        return box(b"meta", (
            box(b"hdlr", b"\0\0\0\0pict" + b"\0" * 13, 0) + box(b"pitm", struct.pack(">H", 1), 0)
            + box(b"iinf", struct.pack(">H", 3) + b"".join(entries), 0) + iref + iprp
            + box(b"iloc", iloc, 0)
        ), 0)  # fmt: skip

    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", b"".join(bodies))


def quarters(pixels: np.ndarray) -> list[np.ndarray]:
    """The middles of the four quarters."""
    height, width = pixels.shape[:2]
    return [pixels[height * i // 4, width * j // 4] for i in (1, 3) for j in (1, 3)]


def test_heif_of_a_false_bit_depth():
    """libheif 1.23 decodes 8 bits where 9 are stated; pi-heif 1.4 then wrote beyond its memory."""
    pytest.importorskip("pi_heif")
    data = bytearray(heif_file())
    data[data.rindex(b"hvcC") + 4 + 17] += 1
    for _ in range(20):
        with pytest.raises(InputError, match="damaged or cut short"):
            embedded.read(bytes(data))


HEIF_TURNS = [[], *[[(b"irot", n)] for n in (1, 2, 3)], [(b"imir", 0)], [(b"imir", 1)],
              [(b"irot", 1), (b"imir", 0)], [(b"irot", 1), (b"imir", 1)]]  # fmt: skip


@pytest.mark.parametrize("own", [True, False], ids=["turned by its own boxes", "as the photo"])
@pytest.mark.parametrize("turns", HEIF_TURNS, ids=str)
def test_heif_is_turned_as_the_photo_is(turns, own, tmp_path):
    pytest.importorskip("pi_heif")
    path = tmp_path / "photo.heic"
    path.write_bytes(heif_file(turns, turns if own else None, kind=None))
    upright, found = photo.load(path), embedded.read(path)
    assert (upright.format, found.metric) == ("HEIF", False)
    assert (upright.pixels.shape[0] > upright.pixels.shape[1]) == any(
        turn in ((b"irot", 1), (b"irot", 3)) for turn in turns
    )
    colours = np.array(list(COLOURS))
    for colour, value in zip(quarters(upright.pixels), quarters(found.disparity), strict=True):
        nearest = tuple(colours[abs(colours - colour).sum(axis=1).argmin()].tolist())
        # Largest gap seen 1 of 255: HEVC.
        assert value * 255 == pytest.approx(COLOURS[nearest], abs=3)


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_apple_metadata_make_metres(kind):
    pytest.importorskip("pi_heif")
    found = embedded.read(heif_file(kind=kind))
    assert (found.metric, found.accuracy) == (True, "absolute")
    for value, coded in zip(quarters(found.disparity), COLOURS.values(), strict=True):
        metres_or_their_inverse = 0.5 + coded / 255 * 3
        expected = metres_or_their_inverse if kind == "disparity" else 1 / metres_or_their_inverse
        assert value == pytest.approx(expected, rel=0.02)


# ---------------------------------------------------------------- real phones


def median(found: embedded.EmbeddedDepth, y: int, x: int) -> float:
    return float(np.median(found.disparity[y : y + 12, x : x + 12]))


@pytest.mark.skipif(not PUG.exists(), reason="no sample photos")
def test_iphone_portrait():
    pytest.importorskip("pi_heif")
    found = embedded.read(PUG)
    assert (found.metric, found.accuracy, found.disparity.shape) == (True, "relative", (576, 768))
    cushion, head, wall = (
        median(found, y, x) for y, x in ((450, 740), (330, 440), (100, 500))
    )
    assert cushion > head > wall + 0.5
    assert found.disparity.min() == pytest.approx(1.498047)
    assert found.disparity.max() == pytest.approx(4.382812)


@pytest.mark.skipif(not TABLE.exists(), reason="no sample photos")
def test_android_lens_blur():
    found = embedded.read(TABLE)
    assert (found.metric, found.kind, found.disparity.shape) == (False, "GDepth", (1024, 768))
    chair, table, street = (
        median(found, y, x) for y, x in ((600, 330), (480, 380), (340, 400))
    )
    assert chair > table > street + 0.1
    assert found.original.pixels.shape == (1024, 768, 3)
    blurred = photo.load(TABLE).pixels.astype(int)
    assert abs(found.original.pixels - blurred)[:300].max() > 30  # the phone had blurred it


# ---------------------------------------------------------------- writing


def read_by_hand(data: bytes) -> tuple[dict[str, str], np.ndarray]:
    """Properties and stored values of GDepth, by the letter of the XMP specification."""
    packets, parts, at = [], {}, 2
    while data[at + 1] != 0xDA:
        size = struct.unpack(">H", data[at + 2 : at + 4])[0]
        body = data[at + 4 : at + 2 + size]
        if body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            packets.append(body[29:])
        if body.startswith(b"http://ns.adobe.com/xmp/extension/\0"):
            guid, whole, offset = body[35:67], *struct.unpack(">II", body[67:75])
            parts[offset] = (guid, whole, body[75:])
        at += 2 + size
    joined = b"".join(parts[offset][2] for offset in sorted(parts))
    (main_packet,) = packets
    guid = hashlib.md5(joined).hexdigest().upper()
    assert {(g, n) for g, n, _ in parts.values()} == {(guid.encode(), len(joined))}
    assert f'xmpNote:HasExtendedXMP="{guid}"'.encode() in main_packet
    said = dict(re.findall(r'GDepth:(\w+)="([^"]*)"', main_packet.decode()))
    (inside,) = re.findall(rb'GDepth:Data="([^"]*)"', joined)
    return said, np.asarray(Image.open(io.BytesIO(base64.b64decode(inside))))


RAMP = np.linspace(0.25, 2, 48 * 64, dtype=np.float32).reshape(48, 64)


def scan(data: bytes) -> bytes:
    """A JPEG from its quantisation tables on: the pixels."""
    return data[data.index(b"\xff\xdb") :]


def test_what_is_written_follows_the_format():
    data = jpeg()
    said, stored = read_by_hand(embedded.write(data, RAMP, metric=True))
    assert stored.dtype == np.uint16
    near, far = float(said["Near"]), float(said["Far"])
    v = stored / 65535
    metres = far * near / (far - v * (far - near))
    np.testing.assert_allclose(1 / metres, RAMP, atol=2e-5)  # half a step is 1.3e-5
    assert {said[k] for k in ("Format", "Units", "Mime", "MeasureType")} == {
        "RangeInverse", "m", "image/png", "OpticalAxis"
    }  # fmt: skip
    assert (said["ImageWidth"], said["ImageHeight"]) == ("64", "48")
    written = embedded.write(data, RAMP, metric=True)
    assert scan(written) == scan(data)
    with Image.open(io.BytesIO(written)) as image:
        assert image.getexif()[0x010F] == "Maker"


def test_relative_depth_is_written_without_a_unit():
    data = embedded.write(jpeg(), RAMP - 1, metric=False)
    said, stored = read_by_hand(data)
    assert "Units" not in said and stored[0, 0] == 65535 and stored[-1, -1] == 0
    found = embedded.read(data)
    assert not found.metric
    np.testing.assert_allclose(found.disparity, (RAMP - RAMP.min()) / np.ptp(RAMP), atol=2e-5)


@pytest.mark.parametrize("orientation", TURNS)
def test_written_and_read_back(orientation):
    shape = (64, 48) if orientation >= 5 else (48, 64)
    disparity = RAMP.reshape(shape)
    data = embedded.write(jpeg(orientation=orientation), disparity, metric=True)
    _, stored = read_by_hand(data)
    assert stored.shape == (48, 64)  # as the photo's pixels
    np.testing.assert_allclose(embedded.read(data).disparity, disparity, atol=3e-5)


def test_writing_replaces_depth_and_keeps_other_xmp():
    once = with_xmp(jpeg(), description(
        f'{GD} {NOTE} GDepth:Near="7" GDepth:Data="old" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:odd="http://example.com/odd/" odd:kept="yes" dc:format="image/jpeg"'
    ), extension=description('xmlns:odd="http://example.com/odd/" odd:large="also"'))  # fmt: skip
    twice = embedded.write(embedded.write(once, RAMP, metric=True), RAMP + 1, metric=True)
    np.testing.assert_allclose(embedded.read(twice).disparity, RAMP + 1, atol=3e-5)
    kept = xmp.properties(xmp.read(twice), "http://example.com/odd/")
    assert kept == {"kept": "yes", "large": "also"}
    assert b'dc:format="image/jpeg"' in twice and b'"old"' not in twice
    assert twice.count(b"http://ns.adobe.com/xap/1.0/\0") == 1
    assert scan(twice) == scan(jpeg())


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("level", [0.0, 0.7])
def test_an_even_map_can_be_written(level, metric):
    found = embedded.read(embedded.write(jpeg(), np.full((48, 64), level), metric=metric))
    assert np.ptp(found.disparity) == 0 and np.isfinite(found.disparity).all()
    if metric:
        assert found.disparity[0, 0] == pytest.approx(max(level, 1e-4), rel=2e-3)


def test_large_maps_are_written_smaller():
    data = jpeg(np.zeros((2400, 1800), np.uint8))
    ramp = np.repeat(np.linspace(1, 2, 2400, dtype=np.float32)[:, None], 1800, axis=1)
    found = embedded.read(embedded.write(data, ramp, metric=True))
    assert found.disparity.shape == (2048, 1536)
    assert found.disparity[1024, 9] == pytest.approx(1.5, abs=1e-3)


# ---------------------------------------------------------------- hostile files


def png_header(width: int, height: int) -> bytes:
    chunks = b""
    for body in (b"IHDR" + struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0), b"IDAT"):
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def nested(depth: int) -> str:
    return "<rdf:Description>" * depth + "</rdf:Description>" * depth


def extended(body: bytes) -> bytes:
    return with_xmp(jpeg(), small_part(), parts=cut(body, 65000))


def nest(name: str, inside: str = "rdf:Description") -> bytes:
    """20,000 of an element, each in the one before, beside a depth map."""
    inner = f"<{name}>" * 20_000 + f"</{name}>" * 20_000
    camera = struct_of("Camera:DepthMap", "DepthMap", MAP, "attributes")
    return extended(packet(
        f"<rdf:Description {SPACES}>{camera}<{inside}>{inner}</{inside}></rdf:Description>"
    ))  # fmt: skip


BODY = extension_body()
BAD = {
    "no picture": (gdepth(picture=b""), "damaged or cut short"),
    "odd base64": (
        with_xmp(jpeg(), description(f'{GD} GDepth:Near="1" GDepth:Data="iVBOR"')), "no base64"
    ),
    "text for a picture": (gdepth(picture=b"I am no picture"), "damaged or cut short"),
    "picture cut short": (gdepth(picture=encoded(NOISE)[:900]), "damaged or cut short"),
    "a bomb": (gdepth(picture=png_header(100_000, 100_000)), "10000000000 pixels"),
    "a small bomb": (gdepth(picture=png_header(9000, 9000)), "more than 64 M pixels"),
    "a line": (gdepth(np.zeros((1, 5000), np.uint8)), "do not belong together"),
    "turned": (gdepth(QUARTERS.T), "do not belong together"),
    "another coding": (gdepth(coding="RangeCubic"), "'RangeCubic', which is not known"),
    "no near": (gdepth(near=""), "does not say its Near"),
    "near is NaN": (gdepth(near="nan"), "no number for Near"),
    "near is far": (gdepth(near=4, far=4), "no range"),
    "near is 0": (gdepth(near=0), "no range"),
    "near is below 0": (gdepth(near=-1, coding="RangeLinear"), "no range"),
    "far is infinite": (gdepth(far="inf", coding="RangeLinear"), "no range"),
    "XML cut short": (with_xmp(jpeg(), f"<rdf:Description {GD} "), "XMP is damaged"),
    "not UTF-8": (jpeg()[:2] + app1(xmp.PACKET + b"\xff\xfe<") + jpeg()[2:], "XMP is damaged"),
    "entities": (
        jpeg()[:2] + app1(xmp.PACKET + b'<!DOCTYPE x [<!ENTITY a "aa">]><x>&a;</x>') + jpeg()[2:],
        "document type",
    ),
    "entities in UTF-16": (
        jpeg()[:2] + app1(xmp.PACKET + '<?xml version="1.0"?><!DOCTYPE x []><x/>'.encode("utf-16"))
        + jpeg()[2:], "XMP is damaged",
    ),
    "a segment cut short": (gdepth()[:300], "damaged or cut short"),
    "no extension": (with_xmp(jpeg(), small_part()), "missing or do not fit"),
    "a part is missing": (with_xmp(jpeg(), small_part(), parts=cut(BODY)[1:]), "do not fit"),
    "no last part": (with_xmp(jpeg(), small_part(), parts=cut(BODY)[:-1]), "do not fit"),
    "parts overlap": (
        with_xmp(jpeg(), small_part(), parts=[*cut(BODY), part_of(BODY, 9, b"x" * 9)]), "do not fit"
    ),
    "4 GB are announced": (
        with_xmp(jpeg(), small_part(), parts=[part_of(b"", 0, BODY[:900], 2**32 - 1)]), "do not fit"
    ),
    "an extension of itself": (
        extended(packet(description(f'{NOTE} {GD} GDepth:Data="self"'))), "damaged"
    ),
    "too many elements": (extended(packet("<a/>" * 200_000)), "elements or attributes"),
    "too many attributes": (
        extended(packet("<a " + " ".join(f'b{i}=""' for i in range(110_000)) + "/>")),
        "elements or attributes",
    ),
    "nested, with a depth": (extended(packet(nested(45_000) + "<b")), "XMP is damaged"),
    "nested directories": (nest("Container:Directory"), "not in the file"),
    "nested entries": (nest("rdf:li", "Container:Directory"), "not in the file"),
    "fill bytes": (b"\xff\xd8" + b"\xff" * 20_000_000, "damaged or cut short"),
    "empty segments": (b"\xff\xd8" + b"\xff\xe2\0\2" * 5_000_000, "damaged or cut short"),
    "empty scans": (
        dynamic({"d": b""}, lengths={"d": 9})[:-30] + b"\xff\xc4\0\2" * 5_000_000, "cut short"
    ),
    "too much": (extended(packet(" " * (33 << 20))), "more than 32 MB"),
    "an item beyond the end": (
        dynamic({"d": encoded(QUARTERS)}, lengths={"d": 10**9}), "not in the file"
    ),
    "a length below 0": (dynamic({"d": encoded(QUARTERS)}, lengths={"d": -5}), "the Length '-5'"),
    "a length of a million digits": (
        dynamic({"d": encoded(QUARTERS)}, lengths={"d": "9" * 5000}), "the Length '999"
    ),
    "no such item": (dynamic({"e": encoded(QUARTERS)}), "not in the file"),
    "appended cut short": (dynamic({"d": encoded(NOISE)})[:-400], "not in the file"),
    "no end of image": (
        dynamic({"d": encoded(NOISE)}).replace(b"\xff\xd9", b"\xff\x00"), "cut short"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_depth_is_refused_in_one_line(kind):
    data, message = BAD[kind]
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(InputError, match=message) as caught:
            embedded.read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 5
    assert peak < 4 * len(data) + 40e6  # most seen: 4e7 for 100,000 elements


def test_nested_maps_take_no_more_time():
    inner = "<Camera:DepthMap>" * 20_000 + "</Camera:DepthMap>" * 20_000
    data = extended(packet(f"<rdf:Description {SPACES}>{inner}</rdf:Description>"))
    start = time.perf_counter()
    assert embedded.read(data) is None
    assert time.perf_counter() - start < 5  # 0.2 seen; each within each would take 20


def test_the_name_of_the_file_is_told(tmp_path):
    (tmp_path / "odd.jpg").write_bytes(gdepth(near="nan"))
    with pytest.raises(InputError, match=r"odd\.jpg: its depth map has no number"):
        embedded.read(tmp_path / "odd.jpg")


@pytest.mark.parametrize("kind", ["GDepth", "extended", "dynamic", "HEIF"])
def test_mutated_files_raise_nothing_else(kind):
    whole = {
        "GDepth": gdepth(), "extended": with_xmp(jpeg(), small_part(), parts=cut(BODY)),
        "dynamic": dynamic({"d": encoded(NOISE)}), "HEIF": heif_file([(b"irot", 1)]),
    }[kind]  # fmt: skip
    if kind == "HEIF":
        pytest.importorskip("pi_heif")
    rng = np.random.default_rng(11)
    read = 0
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 2500), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        if rng.random() < 0.3:
            del data[rng.integers(0, len(data)) :]
        try:
            read += embedded.read(bytes(data)) is not None
        except Error as error:
            assert "\n" not in str(error)
    assert read  # some mutations do no harm


# ---------------------------------------------------------------- maps as files

MAP_VALUES = np.random.default_rng(2).normal(size=(37, 53)).astype(np.float32)


def read_exr(data: bytes) -> tuple[dict[str, bytes], np.ndarray]:
    """By the layout of OpenEXR files: one part, scan lines, ZIP."""
    assert struct.unpack_from("<2i", data) == (20000630, 2)
    at, found = 8, {}
    while data[at]:
        name, kind = data[at:].split(b"\0", 2)[:2]
        at += len(name) + len(kind) + 2
        size = struct.unpack_from("<i", data, at)[0]
        found[name.decode()] = data[at + 4 : at + 4 + size]
        at += 4 + size
    left, top, right, bottom = struct.unpack("<4i", found["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    at += 1
    lines = np.zeros((height, width), np.float32)
    for i in range(0, height, 16):
        place = struct.unpack_from("<Q", data, at + 8 * (i // 16))[0]
        y, size = struct.unpack_from("<2i", data, place)
        rows = min(16, height - y)
        block = data[place + 8 : place + 8 + size]
        if size < 4 * width * rows:
            coded = zlib.decompress(block)
            plain = [coded[0]]
            for byte in coded[1:]:
                plain.append((plain[-1] + byte - 128) & 255)
            half = (len(plain) + 1) // 2
            mixed = bytearray(len(plain))
            mixed[::2], mixed[1::2] = bytes(plain[:half]), bytes(plain[half:])
            block = bytes(mixed)
        lines[y : y + rows] = np.frombuffer(block, "<f4").reshape(rows, width)
    return found, lines


@pytest.mark.parametrize("values", [MAP_VALUES, RAMP, RAMP[:1, :1]], ids=["noise", "ramp", "1x1"])
def test_exr(values, tmp_path):
    depth_files.save(tmp_path / "d.exr", values, metric=True)
    found, lines = read_exr((tmp_path / "d.exr").read_bytes())
    np.testing.assert_array_equal(lines, values)
    assert found["units"] == b"1/m" and found["channels"][:6] == b"Y\0\2\0\0\0"


@pytest.mark.parametrize("metric, units", [(True, "1/m"), (False, "relative")])
def test_png_says_its_units(metric, units, tmp_path):
    depth_files.save(tmp_path / "d.png", MAP_VALUES, metric=metric)
    with Image.open(tmp_path / "d.png") as image:
        assert image.text["units"] == units
        lo, hi = float(image.text["lo"]), float(image.text["hi"])
        np.testing.assert_allclose(
            lo + np.asarray(image, float) / 65535 * (hi - lo), MAP_VALUES, atol=1e-4
        )
    np.testing.assert_allclose(photo.load_disparity(tmp_path / "d.png"), MAP_VALUES, atol=1e-4)


# ---------------------------------------------------------------- the command line and Python


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Photos with depth in metres, with relative depth, with bad depth, without any."""
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x8769] = {0x920A: 6.0, 0xA405: 26}
    pixels = np.random.default_rng(4).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    plain = encoded(pixels, "JPEG", quality=95, exif=exif.tobytes())
    # 0.5 m at the left, 4 m at the right.
    values = np.zeros((24, 32), np.uint8)
    values[:, 16:] = 255
    Path("plain.jpg").write_bytes(plain)
    Path("metric.jpg").write_bytes(gdepth(values, plain, more='GDepth:Units="m"'))
    Path("relative.jpg").write_bytes(gdepth(values, plain))
    Path("bad.jpg").write_bytes(gdepth(values, plain, near="nan"))
    return tmp_path


MODEL = ["--model", TINY]


def test_depth_of_the_photo_itself(here, capsys):
    assert main(["depth", "metric.jpg", "-o", "d.npy"]) == 0
    assert "2 1/m; depth of the photo (GDepth, in 1/m)" in capsys.readouterr().out
    disparity = np.load("d.npy")
    assert disparity.shape == (96, 128)
    np.testing.assert_allclose(disparity[:, :50], 2, rtol=1e-5)
    np.testing.assert_allclose(disparity[:, 78:], 0.25, rtol=1e-5)


def test_which_depth_is_used(here, capsys):
    cases = {
        ("relative.jpg",): "of the photo (GDepth, relative)",
        ("relative.jpg", "--source", "embedded"): "of the photo (GDepth, relative)",
        ("relative.jpg", *MODEL): "of the model",
        ("relative.jpg", "--source", "model", *MODEL): "of the model",
        ("plain.jpg", *MODEL): "of the model",
    }
    for command in ("depth", "refocus"):
        for options, words in cases.items():
            assert main([command, *options, "-o", "out.png"]) == 0
            assert capsys.readouterr().out.endswith(f"depth {words}\n")


def test_bad_depth_gives_way_to_the_model_and_says_so(here):
    own, words = find_embedded("bad.jpg", "auto")
    assert own is None
    assert words.startswith("of the model (the photo's own can't be used: bad.jpg: its depth map")


REFUSED = {
    "no depth": (["depth", "plain.jpg", "--source", "embedded"], "plain.jpg carries no depth"),
    "bad depth": (["refocus", "bad.jpg", "--source", "embedded"], "no number for Near"),
    "a model too": (["depth", "metric.jpg", "--source", "embedded", *MODEL], "exclude each other"),
    "embedded in HEIC": (["depth", "metric.jpg", "--embed", "-o", "x.heic"], "JPEG files alone"),
    "embedded in colour": (["depth", "metric.jpg", "--embed", "--colormap", "viridis"], "--embed"),
    "colours in EXR": (["depth", "metric.jpg", "--colormap", "viridis", "-o", "x.exr"], ".png"),
    "onto itself": (["depth", "metric.jpg", "--embed", "-o", "metric.jpg"], "is an input"),
    "metres of relative depth": (
        ["refocus", "relative.jpg", "--focus-distance", "1"], "needs depth in metres"
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind, here, capsys):
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    arguments, message = REFUSED[kind]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_metres_reach_the_lens(here, capsys):
    command = ["refocus", "metric.jpg", "--focus-distance", "0.5", "--f-number", "2"]
    assert main([*command, "-o", "a.png"]) == 0
    out = capsys.readouterr().out
    assert "focus 2 (0.5 m), f/2, lens 27 mm, full frame" in out
    sharp, blurred = photo.load("metric.jpg").pixels, photo.load("a.png").pixels
    np.testing.assert_array_equal(blurred[:, :40], sharp[:, :40])
    # f/(2N) f_px |1/z - 1/z_focus|: 26 mm have this view across the diagonal of 36x24 mm, and
    # 27.04 mm across that of 36x27 mm, which is as wide as full frame.
    result = argan.refocus("metric.jpg", focus_distance=0.5, f_number=2.0)
    focal = 26 * np.hypot(36, 27) / np.hypot(36, 24)
    assert result.setting.blur == pytest.approx(focal / 1000 / 4 * focal / 36 * 128, rel=1e-3)


def test_a_lens_that_is_given_counts(here):
    given = argan.refocus(
        "metric.jpg", focus_distance=0.5, f_number=2.0, focal_length=50, sensor_width=24
    )
    assert given.setting.blur == pytest.approx(0.05 / 4 * 50 / 24 * 128, rel=1e-3)


def test_python_takes_the_photos_depth(here):
    result = argan.refocus("metric.jpg")
    assert result.disparity[0, 0] == pytest.approx(2)
    by_model = argan.refocus("metric.jpg", source="model", model=TINY)
    assert abs(by_model.disparity - result.disparity).max() > 0.5
    with pytest.raises(InputError, match="is no file carries no depth"):
        argan.refocus(np.zeros((8, 8, 3), np.uint8), source="embedded")


def test_the_original_is_what_gets_blurred(here):
    before = np.zeros((96, 128, 3), np.uint8)
    before[:] = (200, 90, 20)
    data = gdepth(data=Path("plain.jpg").read_bytes(), more=(
        'xmlns:GImage="http://ns.google.com/photos/1.0/image/" GImage:Data="'
        + text(encoded(before)) + '"'
    ))  # fmt: skip
    Path("lensblur.jpg").write_bytes(data)
    assert main(["refocus", "lensblur.jpg", "-o", "out.png"]) == 0
    np.testing.assert_allclose(photo.load("out.png").pixels, before, atol=1)


def test_embed_and_read_back(here):
    assert main(["depth", "plain.jpg", *MODEL, "-o", "d.npy"]) == 0
    assert main(["depth", "plain.jpg", *MODEL, "--embed", "-o", "with.jpg"]) == 0
    data = Path("with.jpg").read_bytes()
    assert scan(data) == scan(Path("plain.jpg").read_bytes())
    written, found = np.load("d.npy"), embedded.read(data)
    expected = (written - written.min()) / np.ptp(written)
    np.testing.assert_allclose(found.disparity, expected, atol=2e-5)


def test_embed_makes_a_jpeg_of_other_photos(here):
    Image.open("plain.jpg").save("plain.png")
    assert main(["depth", "plain.png", *MODEL, "--embed"]) == 0
    assert embedded.read("plain_depth.jpg").kind == "GDepth"


def test_heic_goes_the_whole_way(here, capsys):
    pytest.importorskip("pi_heif")
    Path("portrait.heic").write_bytes(heif_file([(b"irot", 3)], [(b"irot", 3)]))
    assert main(["refocus", "portrait.heic", "--blur", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("portrait_bokeh.jpg") and "of absolute accuracy" in out
    assert photo.load("portrait_bokeh.jpg").pixels.shape == (128, 96, 3)
    assert main(["depth", "portrait.heic", "--embed", "-o", "with.jpg"]) == 0
    found = embedded.read("with.jpg")
    assert found.metric and found.disparity.shape == (128, 96)
    values = [float(v) for v in quarters(found.disparity)]
    assert values == pytest.approx([0.5 + v / 255 * 3 for v in (160, 40, 220, 100)], abs=0.05)
