"""Pictures that are meant to break decoders: refused in the right words, or decoded; and their headers read right."""

from __future__ import annotations

import io
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.hostile import DECODES, Picture, pictures
from vitruvian.data.decode import Bounds, decode_image
from vitruvian.data.headers import read_header
from vitruvian.errors import DataError
from vitruvian.inference.budget import Budget

PICTURES = list(pictures())
SERVERS = Bounds(64_000_000, lambda size: nullcontext())


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_each_is_decoded_or_refused_in_the_right_words(picture: Picture) -> None:
    if picture.expected is DECODES:
        try:
            assert decode_image(picture.content, picture.name, 32, SERVERS).shape == (32, 32, 3)
        except DataError as e:
            # Whether what is only strange decodes is the decoder's affair; it must not fail in another way.
            assert "decoded" in e.what or "not an image" in e.what
        return
    with pytest.raises(DataError, match=picture.expected):
        decode_image(picture.content, picture.name, 32, SERVERS)


def test_most_that_should_decode_do() -> None:
    assert len(PICTURES) >= 60
    fine = [picture for picture in PICTURES if picture.expected is DECODES]
    done = []
    for picture in fine:
        try:
            decode_image(picture.content, picture.name, 32, SERVERS)
        except DataError:
            continue
        done.append(picture.name)
    usual = {"png of 16 bit grey", "gif of 10,000 frames", "progressive jpeg", "tiff", "bmp"}
    odd = {
        "png of 4,000 frames",
        "gif of a frame that is a little larger than its screen",
        "tiff that lies on its side",
    }
    assert usual | odd <= set(done)
    assert len(done) >= len(fine) - 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (300, 17)])
def test_a_header_tells_the_size_that_the_decoder_finds(format: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, format)
    header = read_header(file.getvalue())
    assert header is not None
    assert (header.format, header.width, header.height) == (format, *size)


def test_a_gif_is_as_large_as_its_first_frame_needs() -> None:
    content = {picture.name: picture.content for picture in PICTURES}
    for name in ("gif of a frame that is a little larger than its screen", "gif of 10,000 frames"):
        header = read_header(content[name])
        assert header is not None
        assert (header.width, header.height) == Image.open(io.BytesIO(content[name])).size == (32, 32)


def test_a_large_png_may_have_as_many_chunks_as_tools_cut_it_into() -> None:
    chunk = b"\x00\x00\x20\x00IDAT" + bytes(8192 + 4)
    begun = next(picture.content for picture in PICTURES if picture.name == "png of one bit")[:33]
    header = read_header(begun + chunk * 12_000)
    assert header is not None
    assert header.flaw == ""


@pytest.mark.parametrize("size", [(640, 480), (4032, 3024), (97, 1000)])
def test_large_jpegs_are_decoded_at_a_fraction_that_still_has_more_than_the_result(size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "JPEG")
    header = read_header(file.getvalue())
    assert header is not None
    scale = header.scale(1.5 * 224)
    assert scale == 1 or min(size) / scale >= 1.5 * 224
    image = Image.open(io.BytesIO(file.getvalue()))
    image.draft("RGB", (336, 336))
    # What is foretold is what Pillow does.
    assert image.size == (-(-size[0] // scale), -(-size[1] // scale))


def test_what_is_transparent_gives_its_neighbours_no_colour() -> None:
    array = np.zeros((40, 40, 4), np.uint8)
    array[:, :20] = (0, 255, 0, 255)
    array[:, 20:] = (255, 0, 0, 0)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    made = decode_image(file.getvalue(), "x", 7)
    assert made[3, 0].tolist() == [0, 255, 0]
    assert made[3, 6].tolist() == [255, 255, 255]
    # Between the two lies green on white, and no red that nobody can see.
    assert made[:, :, 1].min() == 255


@given(st.binary(max_size=200), st.sampled_from([picture.content[:300] for picture in PICTURES]), st.integers(0, 300))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_reading_of_headers(junk: bytes, begun: bytes, at: int) -> None:
    header = read_header(begun[:at] + junk + begun[at + len(junk) :])
    assert header is None or header.peak(48) >= 0


# Memory for all together


def test_a_budget_is_never_exceeded_but_by_one_alone() -> None:
    budget, held, most = Budget(100), [0], [0]
    lock = threading.Lock()

    def work(size: int) -> None:
        for _ in range(20):
            with budget.hold(size):
                with lock:
                    held[0] += size
                    most[0] = max(most[0], held[0])
                time.sleep(0.0005)
                with lock:
                    held[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (30, 60, 90, 10, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 100
    with budget.hold(1000):
        pass
