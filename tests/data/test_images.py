from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from napari_lpd.core.errors import DataError, LpdError, SettingsError
from napari_lpd.data.images import IGNORE, masked_images, read_image, read_mask, source_of, sources_of
from napari_lpd.slides.formats import open_slide


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)
    return path


def test_every_kind_of_image_becomes_rgb(tmp_path):
    grey = np.full((4, 5), 100, np.uint8)
    assert (read_image(save(tmp_path / "grey.png", grey)) == 100).all()
    assert (read_image(save(tmp_path / "sixteen.tif", grey.astype(np.uint16) * 257)) == 100).all()
    rgba = np.full((4, 5, 4), 100, np.uint8)
    rgba[:2, :, 3], rgba[2:, :, 3] = 0, 255
    image = read_image(save(tmp_path / "rgba.png", rgba))
    assert image.shape == (4, 5, 3)
    assert (image[:2] == 255).all()  # transparent is white
    assert (image[2:] == 100).all()


def test_a_palette_mask_holds_indices(tmp_path, classes):
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 255, 255, 255] + [0] * 759)
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", classes).tolist() == [[0, 1], [2, IGNORE]]


def test_a_mask_of_colours_is_read_by_the_classes_colours(tmp_path, classes):
    rgb = np.array([[classes[0].rgb, classes[1].rgb], [(255, 255, 255), (0, 0, 0)]], np.uint8)
    assert read_mask(save(tmp_path / "mask.png", rgb), classes).tolist() == [[0, 1], [2, IGNORE]]
    rgb[0, 0] = (1, 2, 3)
    with pytest.raises(DataError, match=r"mask.png: colour #010203 is no class's; wanted dark #3b4cff"):
        read_mask(save(tmp_path / "mask.png", rgb), classes)


def test_a_mask_value_that_means_nothing_is_named(tmp_path, classes):
    with pytest.raises(DataError, match=r"mask.png: mask value 7; wanted 0\.\.1 for dark, pink"):
        read_mask(save(tmp_path / "mask.png", np.full((2, 2), 7, np.uint8)), classes)


def test_images_and_masks_are_paired_by_stem_in_folders_with_brackets(tmp_path):
    folder = tmp_path / "set [1010]"
    grey = np.zeros((2, 2), np.uint8)
    for name in ("b+1", "a+0"):
        save(folder / "img" / f"{name}.jpg", grey)
        save(folder / "mask" / f"{name}.png", grey)
    pairs = masked_images(folder)
    assert [(p.image.name, p.mask.name, p.source) for p in pairs] == [
        ("a+0.jpg", "a+0.png", "a"),
        ("b+1.jpg", "b+1.png", "b"),
    ]
    save(folder / "img" / "c+0.jpg", grey)
    with pytest.raises(DataError, match=r"c\+0.jpg: no mask of the same name"):
        masked_images(folder)
    save(folder / "img" / "a+0.png", grey)
    with pytest.raises(DataError, match=r"a\+0.png: a\+0.jpg has the same name; keep one"):
        masked_images(folder)


def test_the_source_is_the_name_before_plus_or_bracket_or_what_a_pattern_finds():
    assert source_of("GLAS-testA_10-p10+25[0101]") == "GLAS-testA_10-p10"
    assert source_of("TCGA-A1 [1 0 0 1]") == "TCGA-A1"
    assert source_of("GLAS-testA_10-p10+25", r"-(p\d+)") == "p10"
    assert source_of("LUAD-t45+0", r"-(p\d+)") == "LUAD-t45"
    assert source_of("LUAD-t45+0", r"(x)?LUAD") == "LUAD-t45"
    with pytest.raises(SettingsError, match="regular expression with a group"):
        source_of("GLAS-p10", r"p\d+")


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"a.png: not readable as an image"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="no such folder"):
        masked_images(tmp_path / "absent")


def test_a_palette_in_another_order_than_the_classes_is_refused(tmp_path, classes):
    image = Image.fromarray(np.zeros((2, 2), np.uint8))
    image.putpalette([*classes[1].rgb, *classes[0].rgb])
    image.save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="number 0, dark, has the colour of pink"):
        read_mask(tmp_path / "mask.png", classes)
    image.putpalette([*classes[0].rgb, *classes[1].rgb])
    image.save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png", classes).any()


def test_an_rgb_mask_needs_a_colour_per_class(tmp_path, classes):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "mask.png")
    alike = (classes[0], classes[1].model_copy(update={"color": classes[0].color}))
    with pytest.raises(DataError, match="two classes have one colour"):
        read_mask(tmp_path / "mask.png", alike)


def test_a_source_pattern_that_is_in_no_name_is_refused():
    assert sources_of(["GLAS-p10+1", "LUAD+2"], r"-(p\d+)") == ["p10", "LUAD"]
    with pytest.raises(SettingsError, match="matches none of 2 names, first GLAS-p10"):
        sources_of(["GLAS-p10+1", "LUAD+2"], r"(zzz)")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_slides_tiles_and_masks_that_a_tag_turns_are_refused_alike(tmp_path, classes, name, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if name == "a.tif" else {"exif": exif}
    Image.new("RGB", (60, 40), classes[0].rgb).save(tmp_path / name, **options)
    readers = [read_image, open_slide] if name == "a.jpg" else [read_image, open_slide, lambda p: read_mask(p, classes)]
    for read in readers:
        if orientation == 1:
            read(tmp_path / name)
        else:
            with pytest.raises(LpdError, match=rf"turned or mirrored .*{orientation}\): .*vips autorot"):
                read(tmp_path / name)


NUMBERS = np.array([[0, 1, 2, 255], [2, 1, 0, 1]])
OPAQUE = np.full(NUMBERS.shape, 255, np.uint8)


def pixels(mode):
    """The same mask as an image of every mode that can hold it."""
    grey = Image.fromarray(NUMBERS.astype(np.uint8))
    if mode == "LA":
        return Image.fromarray(np.dstack([NUMBERS.astype(np.uint8), OPAQUE]), "LA")
    if mode == "P":
        grey.putpalette([9, 9, 9] * 256)
        return grey
    return Image.fromarray(NUMBERS.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", ".png"),
        ("LA", ".png"),
        ("P", ".png"),
        ("I;16", ".png"),
        ("I", ".tif"),
        ("F", ".tif"),
        ("LA", ".tif"),
        ("L", ".bmp"),
    ],
)
def test_a_mask_of_numbers_is_the_same_in_every_mode(tmp_path, classes, mode, suffix):
    pixels(mode).save(tmp_path / f"m{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"m{suffix}", classes), NUMBERS)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_mask_of_one_bit_holds_0_and_1(tmp_path, classes, suffix):
    Image.fromarray(np.array([[False, True]] * 8)).save(tmp_path / f"m{suffix}")
    assert read_mask(tmp_path / f"m{suffix}", classes).tolist() == [[0, 1]] * 8


def test_what_is_transparent_is_not_counted(tmp_path, classes):
    clear = OPAQUE.copy()
    clear[0, 0] = 0
    Image.fromarray(np.dstack([NUMBERS.astype(np.uint8), clear]), "LA").save(tmp_path / "g.png")
    wanted = NUMBERS.copy()
    wanted[0, 0] = 255
    assert np.array_equal(read_mask(tmp_path / "g.png", classes), wanted)
    rgb = np.full((*NUMBERS.shape, 3), classes[1].rgb, np.uint8)
    Image.fromarray(np.dstack([rgb, clear]), "RGBA").save(tmp_path / "c.png")
    labels = read_mask(tmp_path / "c.png", classes)
    assert labels[0, 0] == 255
    assert (labels.ravel()[1:] == 1).all()


ODD = {
    "half": (lambda: Image.fromarray(np.full((4, 4), 0.5, np.float32)), ".tif", "mask value 0.5"),
    "NaN": (lambda: Image.fromarray(np.full((4, 4), np.nan, np.float32)), ".tif", "mask value nan"),
    "below 0": (lambda: Image.fromarray(np.full((4, 4), -1, np.int32)), ".tif", "mask value -1"),
    "far above": (lambda: Image.fromarray(np.full((4, 4), 65536, np.int32)), ".tif", "mask value 65536"),
    "half transparent": (lambda: Image.new("LA", (4, 4), (1, 128)), ".png", "half-transparent"),
    "for print": (lambda: Image.new("CMYK", (4, 4)), ".tif", "mode CMYK"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_mask_that_means_nothing_is_refused(tmp_path, classes, name):
    make, suffix, why = ODD[name]
    make().save(tmp_path / f"m{suffix}")
    with pytest.raises(DataError, match=rf"m\{suffix}: .*{why}"):
        read_mask(tmp_path / f"m{suffix}", classes)


def test_an_image_of_floating_point_numbers_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif: has pixels of floating-point numbers"):
        read_image(tmp_path / "f.tif")


def test_an_image_that_is_too_large_for_pillow_is_refused(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.png: not readable as an image"):
        read_image(tmp_path / "a.png")
