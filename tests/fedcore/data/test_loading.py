import csv
import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedcore.data import archive, npz
from fedcore.data.dataset import Dataset
from fedcore.data.loading import load_images
from scenarios.errors import InputError

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent: the development data is not part of the project")
    return path


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(level: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, (level, 255 - level, 7))


def grey(level: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("L", size, level)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return path


def class_files(per_class: int = 20, top: str = "") -> dict[str, bytes]:
    return {f"{top}{c}/{i:02}.png": encoded(colour(10 * k + i)) for k, c in enumerate("ab") for i in range(per_class)}


def flat_files(n: int = 40) -> dict[str, bytes]:
    return {f"{i:02}.png": encoded(colour(i)) for i in range(n)}


def counts_text(
    n: int = 40,
    header: str = "file,slide,bacteria,fungi",
    row: str = "{i:02}.png,s{g},{i},2",
    groups: int = 8,
) -> str:
    return "\n".join([header, *(row.format(i=i, g=i % groups) for i in range(n))]) + "\n"


def counted(root: Path, text: str, n: int = 40) -> Path:
    return write(root / "set", {**flat_files(n), "counts.csv": text.encode()})


def save_npz(path: Path, n: int = 40, **arrays: object) -> Path:
    np.savez(path, **{"x": np.zeros((n, 32, 32), np.uint8), **arrays})  # type: ignore[arg-type]
    return path


def refused(path: Path | str, *words: str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_images(path, **options)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence
    return sentence


def same(a: Dataset, b: Dataset) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("images", "group", "test", "labels"))


# real files


def test_plankton_is_as_described():
    data = load_images(shared("plankton.npz"))
    assert data.images.shape == (13919, 32, 32, 1)
    assert data.labels is not None
    assert len(data.classes) == 33 == len(np.unique(data.labels))
    assert data.name == "plankton"
    assert not data.has_groups


def test_micrographs_are_split_by_slide():
    data = load_images(shared("micrographs.zip"))
    assert data.images.shape == (2616, 32, 32, 3)
    assert data.kinds == ("rbc", "wbc", "platelets")
    assert data.counts is not None
    assert data.counts.shape == (2616, 3)
    assert data.counts.sum() > 1000
    assert len(data.group_names) == 218
    assert not set(data.group[data.test]) & set(data.group[~data.test])
    assert 0.22 < data.test.mean() < 0.28
    first = zipfile.ZipFile(SHARED / "micrographs.zip").read("counts.csv").decode().splitlines()
    rows = sorted(csv.reader(first[1:]))
    assert data.counts.tolist() == [[int(c) for c in row[2:]] for row in rows]


def test_cifar_subsample_keeps_classes_and_test_share():
    data = load_images(shared("cifar10.zip"), max_images=600)
    assert data.images.shape == (600, 32, 32, 3)
    assert data.test.sum() == 100
    assert len(data.classes) == 10
    assert data.labels is not None
    assert np.ptp(np.bincount(data.labels)) <= 2


def test_soil_photos_name_their_keys_and_the_mapping(tmp_path):
    path = shared("soil_photos.npz")
    refused(path, "no array x", "x64", "tile32", "tile_y", "x=z['tile32']", "tile_image")
    with np.load(path) as old:
        new = save_npz(
            tmp_path / "new.npz", x=old["tile32"], y=old["tile_y"], group=old["tile_image"], classes=old["classes"]
        )
    data = load_images(new)
    assert data.images.shape == (2496, 32, 32, 3)
    assert data.has_groups
    assert data.classes[0] == "Black Soil"


# folders and zips of images


@pytest.mark.parametrize("top", ["", "my set/", "x/images/"])
def test_class_folders_and_zips_agree(tmp_path, top):
    files = class_files(top=top)
    folder = load_images(write(tmp_path / "folder", files))
    zipped = load_images(write_zip(tmp_path / "z.ZIP", files))
    assert same(folder, zipped)
    assert folder.classes == ("a", "b")
    assert folder.labels is not None
    assert np.bincount(folder.labels).tolist() == [20, 20]
    assert np.bincount(folder.labels[folder.test]).tolist() == [5, 5]
    assert folder.images[0, 0, 0].tolist() == [0, 255, 7]
    assert (folder.name, zipped.name) == ("folder", "z")


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "val"), ("train", "Testing")])
def test_train_and_test_folders_give_the_split(tmp_path, names):
    train, test = names
    files = {**class_files(20, f"top/{train}/"), **class_files(3, f"top/{test}/")}
    data = load_images(write_zip(tmp_path / "a.zip", files))
    assert data.test.sum() == 6
    assert data.classes == ("a", "b")


def test_val_joins_training_where_there_is_a_test_folder(tmp_path):
    files = {f"{split}/{name}": b for split in ("train", "val", "test") for name, b in class_files(8).items()}
    assert load_images(write(tmp_path / "s", files)).test.sum() == 16


def test_a_class_may_be_called_train(tmp_path):
    files = {f"{c}/{i}.png": encoded(colour(i)) for c in ("car", "train") for i in range(20)}
    assert load_images(write(tmp_path / "s", files)).classes == ("car", "train")


def test_flat_images_are_unlabeled(tmp_path):
    data = load_images(write(tmp_path / "s", {f"images/{k}": v for k, v in flat_files().items()}))
    assert (data.labels, data.counts, data.has_groups) == (None, None, False)
    assert data.test.sum() == 10
    assert data.images[:, 0, 0, 0].tolist() == list(range(40))


def test_only_test_images_are_refused(tmp_path):
    refused(write(tmp_path / "s", class_files(20, "test/")), "no training images")


def test_image_beside_class_folders_is_named(tmp_path):
    refused(write(tmp_path / "s", {**class_files(), "preview.png": encoded(colour(0))}), "preview.png", "'a'")


def test_junk_is_ignored(tmp_path):
    junk = {
        "__MACOSX/a/._0.png": b"x",
        ".hidden/q.png": b"x",
        "a/.DS_Store": b"x",
        "Thumbs.db": b"x",
        "a/notes.txt": b"x",
    }
    for path in (
        write(tmp_path / "s", {**class_files(), **junk}),
        write_zip(tmp_path / "s.zip", {**class_files(), **junk}),
    ):
        assert len(load_images(path)) == 40


def test_empty_and_imageless_sources(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty", "expected")
    refused(write(tmp_path / "s", {"a/1.heic": b"x"}), "no images", ".heic", ".png")
    refused(write_zip(tmp_path / "e.zip", {}), "zip is empty")
    refused(write(tmp_path / "few", flat_files(5)), "has 5 images", "at least 32")


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("PNG", ".PNG"), ("JPEG", ".JPG"), ("JPEG", ".jpeg"), ("TIFF", ".tif"), ("TIFF", ".TIFF"), ("BMP", ".bmp"),
     ("WEBP", ".webp"), ("GIF", ".gif")],
)  # fmt: skip
def test_every_extension(tmp_path, kind, suffix):
    files = {f"é{i}{suffix}": encoded(colour(6 * i, (50 + i, 60)), kind) for i in range(32)}
    data = load_images(write_zip(tmp_path / "s.zip", files), size_px=16)
    assert data.images.shape == (32, 16, 16, 3)
    assert abs(int(data.images[..., 2].mean()) - 7) < 6


def one_odd(tmp_path: Path, name: str, data: bytes, size_px: int = 32) -> np.ndarray:
    """The odd image, loaded as the first of a set of grey ones."""
    files = {**{f"z{i}.png": encoded(grey(i)) for i in range(32)}, name: data}
    return load_images(write(tmp_path / "s", files), size_px=size_px).images[0]


def test_16_bit_grey_is_stretched(tmp_path):
    ramp = np.tile(np.linspace(100, 4095, 64).astype(np.uint16), (64, 1))
    pixels = one_odd(tmp_path, "a.tif", encoded(Image.fromarray(ramp), "TIFF"))
    assert pixels.shape == (32, 32, 1)
    assert pixels.min() < 8
    assert pixels.max() > 247


def png16(pixels: np.ndarray) -> bytes:
    """A 16-bit colour PNG, which Pillow reads and does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour_is_read_where_it_uses_its_range_and_refused_where_it_would_be_black(tmp_path):
    ramp = np.tile(np.linspace(0, 1, 64)[None, :, None] * [1.0, 0.5, 0.2], (64, 1, 1))
    full = one_odd(tmp_path / "full", "a.png", png16((ramp * 65535).astype(np.uint16)))
    assert full.shape == (32, 32, 3)
    assert full.max() > 245
    with pytest.raises(InputError, match=r"a.png' cannot be decoded \(it is 16-bit colour .*convert it to 8 bit"):
        one_odd(tmp_path / "deep", "a.png", png16((ramp * 4095).astype(np.uint16)))


def test_float_tif_and_constant_16_bit(tmp_path):
    deep = np.linspace(-1, 1, 1600, dtype=np.float32).reshape(40, 40)
    assert one_odd(tmp_path, "a.tif", encoded(Image.fromarray(deep), "TIFF")).max() > 250
    constant = Image.fromarray(np.full((40, 40), 3000, np.uint16))
    assert one_odd(tmp_path, "a.tif", encoded(constant, "TIFF")).max() == 0
    deep[0, 0] = np.nan
    write(tmp_path / "s", {"a.tif": encoded(Image.fromarray(deep), "TIFF")})
    refused(tmp_path / "s", "a.tif", "NaN")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1"])
def test_colour_modes(tmp_path, mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    pixels = one_odd(tmp_path, f"a.{kind.lower()}", encoded(Image.new("RGB", (40, 40), "red").convert(mode), kind))
    if mode in ("L", "LA", "1"):
        assert pixels.shape[2] == 1
    else:
        assert pixels[5, 5].tolist() == [255, 0, 0]


def test_transparent_is_white_and_grey_in_rgb_is_grey(tmp_path):
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    pixels = one_odd(tmp_path, "a.png", encoded(clear))
    assert pixels.shape == (32, 32, 1)
    assert pixels.min() == 255


def test_exif_orientation(tmp_path):
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40] = (0, 200, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left of the file is the top of the picture
    pixels = one_odd(tmp_path, "a.jpg", encoded(Image.fromarray(picture), "JPEG", exif=exif, quality=95))
    assert pixels[2, :, 1].mean() > 150
    assert pixels[-2, :, 1].mean() < 50


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_pages_the_first_is_read_and_said_so(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    pages = encoded(Image.new("RGB", (40, 40), "red"), kind, save_all=True, append_images=[colour(0)], **options)
    with pytest.warns(UserWarning, match=r"1 images, such as '.*a\..*', have several pages"):
        assert one_odd(tmp_path, f"a.{kind.lower()}", pages)[0, 0].tolist() == [255, 0, 0]


def test_shrinking_averages_areas(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(one_odd(tmp_path, "a.png", encoded(Image.fromarray(checks))).astype(int) - 127).max() <= 1


def test_corrupt_images_are_named(tmp_path):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)), "JPEG")
    for bad in (whole[: len(whole) // 2], b"not an image", b"", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        refused(write(tmp_path / "s", {**class_files(), "a/bad.jpg": bad}), "'a/bad.jpg'", "cannot be decoded")


def test_pixel_bomb_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "s", {**flat_files(), "a.png": encoded(grey(0, (300, 300)))})
    for limit in (40_000, 60_000):  # above twice the limit PIL raises, above the limit it only warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(path, "'a.png'", "too many pixels", f"{limit:,}")


# zips


def test_truncated_zip(tmp_path):
    path = write_zip(tmp_path / "s.zip", class_files())
    path.write_bytes(path.read_bytes()[:2000])
    refused(path, "s.zip", "not a readable zip")


def test_damaged_member_is_named(tmp_path):
    path = write_zip(tmp_path / "s.zip", {**class_files(), "a/x.bmp": encoded(grey(3), "BMP")})
    with zipfile.ZipFile(path) as source:
        start = source.getinfo("a/x.bmp").header_offset
    data = bytearray(path.read_bytes())
    data[start + 45 : start + 60] = b"\xff" * 15
    path.write_bytes(data)
    refused(path, "a/x.bmp", "undamaged zip")


@pytest.mark.parametrize("name", ["/etc/1.png", "../1.png", "a/../../1.png", "C:\\x\\1.png", "..\\1.png"])
def test_names_that_leave_the_zip_are_refused(tmp_path, name):
    refused(write_zip(tmp_path / "s.zip", {**class_files(), name: b"x"}), "leaves the archive")


STEPS = ["..", ".", "", "a", "C:", "~", "\\", "\\..", "..\\x", "\x01", "a\u0301", "x.png"]
odd = st.lists(st.sampled_from(STEPS) | st.text(max_size=4), min_size=1, max_size=4).map("/".join)
plain = st.from_regex(r"[a-c]{1,2}/[a-c0-9]{1,3}\.png", fullmatch=True)
members = st.tuples(
    st.lists(st.tuples(plain, st.integers(0, 150)), max_size=3, unique_by=lambda member: member[0]),
    st.lists(st.tuples(odd, st.integers(0, 300)), max_size=1),
).map(lambda both: both[0] + both[1])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members)
def test_whatever_a_zips_members_are_called_and_hold_nothing_is_named_outside_it_or_read_beyond_the_limit(tmp_path, members):
    path = tmp_path / "s.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore", UserWarning)  # of names that occur twice
        for name, size in members:
            file.writestr(zipfile.ZipInfo(name or "a"), b"\0" * size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "MAX_FILE_BYTES", 200)
        patch.setattr(archive, "MAX_ZIP_BYTES", 500)
        try:
            with archive.open_source(path) as source:
                read = {name: source.read(name) for name in source.names}
        except InputError:
            read = {}
    assert all(len(content) <= 200 for content in read.values())
    assert sum(map(len, read.values())) <= 500
    for name in read:
        assert not name.startswith("/")
        assert ".." not in name.replace("\\", "/").split("/")
    assert list(tmp_path.iterdir()) == [path]


def test_zip_bombs_are_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "s.zip", {**class_files(), "a/big.png": b"\0" * 100_000})
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 50_000)
    refused(path, "a/big.png", "100,000")
    monkeypatch.setattr(archive, "MAX_ZIP_BYTES", 90_000)
    refused(path, "zip unpacks to")


def test_encrypted_zip(tmp_path):
    path = write_zip(tmp_path / "s.zip", class_files())
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")  # the first entry of the directory
    struct.pack_into("<H", data, at + 8, 1)
    path.write_bytes(data)
    refused(path, "a/00.png", "encrypted")


def test_windows_separators_and_utf8_without_its_flag(tmp_path):
    files = {name.replace("/", "\\").replace("a\\", "é\\"): data for name, data in class_files().items()}
    path = write_zip(tmp_path / "s.zip", files)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as source:
        flags = [(m.header_offset + 6, m.flag_bits) for m in source.infolist()]
    changed = bytearray(data)
    for at, flag in flags:
        struct.pack_into("<H", changed, at, flag & ~0x800)
    at = changed.find(b"PK\x01\x02")
    while at >= 0:
        struct.pack_into("<H", changed, at + 8, 0)
        at = changed.find(b"PK\x01\x02", at + 4)
    path.write_bytes(changed)
    assert load_images(path).classes == ("b", "é")


# counts.csv


@pytest.mark.parametrize("folder", ["", "images/", "top/images/"])
def test_counts_csv(tmp_path, folder):
    files = {folder + name: data for name, data in flat_files().items()}
    top = "top/" if folder.startswith("top/") else ""
    row = (folder.removeprefix(top) if folder == "images/" else "") + "{i:02}.png,s{g},{i},2"
    data = load_images(write_zip(tmp_path / "s.zip", {**files, top + "counts.csv": counts_text(row=row).encode()}))
    assert data.kinds == ("bacteria", "fungi")
    assert data.counts is not None
    assert data.counts.tolist() == [[i, 2] for i in range(40)]
    assert data.group_names == tuple(f"s{g}" for g in range(8))
    assert data.group.tolist() == [i % 8 for i in range(40)]
    assert data.test.sum() == 10
    assert not set(data.group[data.test]) & set(data.group[~data.test])
    assert data.images[:, 0, 0, 0].tolist() == list(range(40))


@pytest.mark.parametrize("name", ["Group", "SITE", "plate_id", "Station"])
def test_group_columns_and_spreadsheet_dialect(tmp_path, name):
    text = "\ufeff" + counts_text(header=f"{name};File;n;;", row="{g};{i:02}.png;{i}.0;;").replace("\n", "\r\n")
    data = load_images(counted(tmp_path, text))
    assert len(data.group_names) == 8
    assert data.kinds == ("n",)


def test_test_column_and_no_group(tmp_path):
    text = counts_text(header="file,test,n", row="{i:02}.png,{g},1", groups=2)
    data = load_images(counted(tmp_path, text))
    assert data.test.tolist() == [False, True] * 20
    assert not data.has_groups


def test_groups_without_kinds(tmp_path):
    data = load_images(counted(tmp_path, counts_text(header="file,slide", row="{i:02}.png,{g}")))
    assert data.counts is None
    assert data.kinds == ()
    assert data.has_groups


def test_slide_in_train_and_test_is_warned_of(tmp_path):
    text = counts_text(header="file,slide,test", row="{i:02}.png,s{g},{i}", groups=3)
    text = "\n".join(line[:-2].rstrip(",") + f",{i % 2}" if i else line for i, line in enumerate(text.splitlines()))
    with pytest.warns(UserWarning, match="both training and test"):
        load_images(counted(tmp_path, text))


def test_all_damaged_images_are_named_at_once(tmp_path):
    bad = {f"a/bad{i}.jpg": b"no image" for i in range(8)}
    with pytest.raises(InputError, match=r"'a/bad0.jpg' cannot .*, and 7 more cannot be read: a/bad1.jpg, .*5.jpg, \.\.\.$"):
        load_images(write(tmp_path / "s", {**class_files(), **bad}))
    with pytest.raises(InputError, match=r"and 1 more cannot be read: a/bad1.jpg$"):
        load_images(write(tmp_path / "t", {**class_files(), **dict(list(bad.items())[:2])}))


def test_a_class_that_a_held_out_group_takes_with_it_is_warned_of(tmp_path):
    group = np.repeat(np.arange(8), 5)
    file = save_npz(tmp_path / "own.npz", y=group // 2, group=group, test=group == 3, classes=np.array(["a", "b", "c", "d"]))
    assert load_images(file).test.sum() == 5  # the class has another group
    file = save_npz(tmp_path / "lone.npz", y=group, group=group, test=group == 3, classes=np.array(list("abcdefgh")))
    with pytest.warns(UserWarning, match=r"lone.npz: 1 classes, 'd', have test images and no training images"):
        load_images(file)


def test_unlisted_images_are_left_out_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="5 images"):
        assert len(load_images(counted(tmp_path, counts_text(35)))) == 35


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("file,slide", "image,slide", ["no 'file' column", "'image'"]),
        ("fungi", "bacteria", ["'bacteria' occurs twice"]),
        ("bacteria", "site", ["2 group columns", "'slide'", "'site'"]),
        ("02.png,s2,2", "gone.png,s2,2", ["line 4", "gone.png", "does not exist"]),
        ("02.png,s2,2", "01.png,s2,2", ["line 4", "01.png", "line 3"]),
        ("02.png,s2,2", "02.png,s2,2.5", ["line 4", "'bacteria'", "'2.5'", "whole number"]),
        ("02.png,s2,2", "02.png,s2,-1", ["line 4", "'-1'"]),
        ("02.png,s2,2", "02.png,s2,nan", ["line 4", "'nan'"]),
        ("02.png,s2,2", "02.png,s2,", ["line 4", "''"]),
        ("02.png,s2,2", "02.png,s2,1e99", ["line 4", "'1e99'"]),
        ("02.png,s2,2", "02.png,,2", ["line 4", "'slide' is empty"]),
        ("02.png,s2,2", ",s2,2", ["line 4", "'file' is empty"]),
        ("02.png,s2,2", "02.png,2", ["line 4", "3 fields", "expected 4"]),
        ("bacteria,fungi", "test,fungi", ["line 4", "'test'", "'2'"]),
        ("bacteria", "", ["line 2", "no name"]),
    ],
)
def test_bad_counts_csv_names_the_line(tmp_path, old, new, words):
    refused(counted(tmp_path, counts_text().replace(old, new, 1)), "counts.csv", *words)


def test_other_bad_counts_csv(tmp_path):
    refused(write(tmp_path / "e", {**flat_files(), "counts.csv": b""}), "counts.csv", "is empty")
    refused(write(tmp_path / "h", {**flat_files(), "counts.csv": b"file,n\n"}), "no line after its header")
    refused(write(tmp_path / "u", {**flat_files(), "counts.csv": b"file,\xe9\n"}), "not UTF-8")
    refused(write(tmp_path / "q", {**flat_files(), "counts.csv": b'file,n\n"' + b"x" * 200_000}), "counts.csv line")
    refused(write(tmp_path / "d", {"a/counts.csv": b"file", "b/counts.csv": b"file"}), "2 counts.csv")
    text = counts_text(header="file,n", row="{i:02}.png,1").encode()
    both = {f"{c}/{name}": data for c in "ab" for name, data in flat_files().items()}
    refused(write(tmp_path / "m", {**both, "counts.csv": text}), "line 2", "could be a/00.png or b/00.png")


# npz


def test_npz_with_everything(tmp_path):
    n = 40
    x = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 30, 3), np.uint8)
    path = save_npz(
        tmp_path / "s.npz",
        x=x,
        y=np.arange(n) % 3,
        count=np.ones((n, 2), np.float32),
        group=np.array([f"g{i % 5}" for i in range(n)]),
        test=np.arange(n) % 5 == 0,
        classes=np.array(["a", "b", "c"]),
        kinds=np.array([b"k", b"l"]),
        whatever=np.zeros(7),
    )
    data = load_images(path, size_px=24)
    assert data.images.shape == (n, 24, 24, 3)
    assert data.images[:, 3, 3, 1].tolist() == list(range(n))
    assert data.test.sum() == 8
    assert (data.classes, data.kinds, len(data.group_names)) == (("a", "b", "c"), ("k", "l"), 5)
    assert data.counts is not None
    assert data.counts.dtype == data.group.dtype == np.int64


def test_npz_small_variants(tmp_path):
    plain = load_images(save_npz(tmp_path / "a.npz", x=np.zeros((40, 32, 32, 1), np.uint8)))
    assert plain.images.shape == (40, 32, 32, 1)
    assert plain.labels is None
    named = load_images(save_npz(tmp_path / "b.npz", y=np.array(["u", "v"] * 20), group=np.arange(40) % 2 * 10))
    assert named.classes == ("u", "v")
    assert named.group_names == ("0", "10")
    bare = load_images(save_npz(tmp_path / "c.npz", y=np.array([5, 9] * 20), count=np.arange(40)))
    assert bare.classes == ("5", "9")
    assert bare.kinds == ("kind_1",)
    assert bare.labels is not None
    assert bare.labels.max() == 1
    with pytest.warns(UserWarning, match="'labels' is not read"):
        load_images(save_npz(tmp_path / "d.npz", labels=np.zeros(40)))


NAN_COUNT = np.array([1.0] * 39 + [np.nan])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((40, 32), np.uint8)}, ["x has shape (40, 32)", "(N, H, W)"]),
        ({"x": np.zeros((40, 3, 32, 32), np.uint8)}, ["x has shape (40, 3, 32, 32)"]),
        ({"x": np.zeros((40, 32, 32))}, ["x has type float64", "uint8"]),
        ({"x": np.zeros((0, 32, 32), np.uint8)}, ["has 0 images"]),
        ({"x": np.zeros((5, 32, 32), np.uint8)}, ["has 5 images", "at least 32"]),
        ({"y": np.zeros(39, int)}, ["y has shape (39,)", "(40,)"]),
        ({"y": np.zeros(40)}, ["y has type float64"]),
        ({"y": np.full(40, -1)}, ["y[0] is -1"]),
        ({"y": np.arange(40), "classes": np.array(["a", "b"])}, ["y[2] is 2", "from 0 to 1"]),
        ({"y": np.array(["a"] * 40), "classes": np.array(["b"])}, ["y[0] is 'a'"]),
        ({"y": np.zeros(40, int), "classes": np.array(["a", "a"])}, ["classes has 'a' twice"]),
        ({"count": np.zeros((39, 2), int)}, ["count has shape (39, 2)"]),
        ({"count": NAN_COUNT}, ["count[39, 0] is nan"]),
        ({"count": np.full((40, 1), 0.5)}, ["count[0, 0] is 0.5"]),
        ({"count": np.full((40, 2), -3)}, ["count[0, 0] is -3"]),
        ({"count": np.array(["1"] * 40)}, ["count has type"]),
        ({"count": np.zeros((40, 2), int), "kinds": np.array(["a"])}, ["kinds has 1 names", "expected 2"]),
        ({"group": np.zeros(3, int)}, ["group has shape (3,)"]),
        ({"group": np.zeros(40)}, ["group has type float64"]),
        ({"test": np.full(40, 2)}, ["test has type", "bool"]),
        ({"test": np.ones(40, bool)}, ["no training images"]),
        ({"test": np.zeros(40, bool)}, ["no test images"]),
        ({"y": np.array([None] * 40)}, ["y holds pickled", "never loaded"]),
    ],
)  # fmt: skip
def test_bad_npz(tmp_path, arrays, words):
    refused(save_npz(tmp_path / "bad.npz", **arrays), "bad.npz", *words)


def test_not_an_npz(tmp_path):
    path = tmp_path / "s.npz"
    path.write_bytes(b"hello")
    refused(path, "not a readable npz")
    np.save(tmp_path / "y.npy", np.zeros(3))
    (tmp_path / "y.npy").rename(path)
    refused(path, "not a readable npz")
    save_npz(path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, "not a readable npz")
    write_zip(path, {"x.npy": b"\x93NUMPY\x01\x00garbage"})
    refused(path, "not a readable npz")
    write_zip(path, {"a.png": b"x"})
    refused(path, "holds no arrays")


def test_absurd_npz_header_allocates_nothing(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 32, 32)})
    refused(write_zip(tmp_path / "s.npz", {"x.npy": buffer.getvalue()}), "x unpacks to", "expected at most")
    monkeypatch.setattr(npz, "MAX_ARRAY_BYTES", 100)
    refused(save_npz(tmp_path / "t.npz"), "x unpacks to 40,960 bytes")


# arguments, splits, subsamples


def test_bad_paths(tmp_path):
    refused(tmp_path / "none", "does not exist")
    refused("a\0b", "expected a folder")
    path = tmp_path / "s.tar"
    path.write_bytes(b"")
    refused(path, "'.tar'", ".zip")


@pytest.mark.parametrize(
    ("name", "value"),
    [("size_px", 0), ("size_px", 31.5), ("size_px", True), ("seed", -1), ("test_fraction", 0), ("test_fraction", 1.0),
     ("test_fraction", float("nan")), ("test_fraction", "x"), ("max_images", 31)],
)  # fmt: skip
def test_bad_arguments(tmp_path, name, value):
    refused(tmp_path, f"{name} is {value!r}", **{name: value})


def test_set_too_large_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("fedcore.data.loading.MAX_SET_BYTES", 1000)
    refused(save_npz(tmp_path / "s.npz"), "expected at most 1,000", "max_images")


def test_seed_fixes_split_and_subsample(tmp_path):
    path = save_npz(tmp_path / "s.npz", n=400, y=np.arange(400) % 4, x=np.zeros((400, 8, 8), np.uint8))
    first, again, other = (load_images(path, size_px=8, seed=s, max_images=100) for s in (1, 1, 2))
    assert same(first, again)
    assert not np.array_equal(first.test, other.test)
    assert np.ptp(np.bincount(first.labels)) <= 2  # one rounding in the training part, one in the test part
    assert first.test.sum() == 25


def test_subsample_keeps_test_images_test_images(tmp_path):
    x = np.zeros((200, 8, 8), np.uint8)
    x[:, 0, 0] = np.arange(200)
    path = save_npz(tmp_path / "s.npz", x=x, group=np.arange(200) // 10)
    full, part = load_images(path, size_px=8), load_images(path, size_px=8, max_images=60)
    assert len(part) == 60
    assert np.array_equal(full.test[part.images[:, 0, 0, 0]], part.test)
    assert len(np.unique(part.group)) == 20


@pytest.mark.parametrize("sizes", [(97, 1, 1, 1), (25, 25, 25, 25), (1, 33, 33, 33), (90, 4, 3, 3)])
@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.9])
def test_whole_groups_are_held_out(tmp_path, sizes, fraction):
    path = save_npz(tmp_path / "s.npz", n=100, group=np.repeat(np.arange(4), sizes))
    for seed in range(5):
        data = load_images(path, seed=seed, test_fraction=fraction)
        assert not set(data.group[data.test]) & set(data.group[~data.test])
        assert data.test.any()
        assert not data.test.all()


def test_rare_classes_keep_a_training_image(tmp_path):
    y = np.array([0] * 60 + [1] * 2 + [2] + [3] * 20)
    path = save_npz(tmp_path / "s.npz", n=83, y=y)
    for seed in range(10):
        data = load_images(path, seed=seed, test_fraction=0.5)
        assert set(data.labels[~data.test]) == {0, 1, 2, 3}


def test_nothing_warns_on_clean_data(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images(write(tmp_path / "s", class_files()))
        load_images(counted(tmp_path, counts_text()))
