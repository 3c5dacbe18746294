"""Which photos calibrate, which ranges come of them, and the search for the layers that stay."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from argan import bundle
from argan.errors import InputError
from argan.refocus import find_model
from argan_export import calibration, quantize
from argan_export.calibration import Histogram, affine
from argan_export.to_onnx import OnnxGraph

SIZE = (64, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten photos, one of them three times, one damaged, one too small."""
    path, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(256, size=(40 + 8 * (i % 3), 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    for copy in ("a", "z/again"):
        (path / copy).parent.mkdir(exist_ok=True)
        shutil.copy(path / "4.png", path / f"{copy}.png")
    (path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    Image.new("RGB", (31, 31)).save(path / "tiny.png")
    return path


def digests(photos):
    return set(photos.record["files"].values())


def test_the_choice_depends_on_contents_and_seed_alone(folder, tmp_path):
    first = calibration.photos(folder, 6, 32)
    assert first.record == calibration.photos(folder, 6, 32).record
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    files = sorted(f for f in folder.rglob("*.*") if f.is_file())
    for i, file in enumerate(reversed(files)):
        shutil.copy(file, renamed / f"{i:02}{file.suffix}")
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as pack:
        for file in files:
            pack.write(file, f"photos/{file.name}")
    for source in (renamed, tmp_path / "pack.zip"):
        other = calibration.photos(source, 6, 32)
        assert other.record["sha256"] == first.record["sha256"]
        assert all(np.array_equal(a, b) for a, b in zip(other.images, first.images, strict=True))
    seeds = [digests(calibration.photos(folder, 6, 32, seed=seed)) for seed in range(4)]
    assert len({frozenset(chosen) for chosen in seeds}) > 1


def test_copies_count_once_and_what_cannot_be_used_not_at_all(folder):
    chosen = calibration.photos(folder, 10, 32)
    assert len(digests(chosen)) == 10
    assert {min(image.shape[:2]) for image in chosen.images} == {32}
    with pytest.raises(InputError, match=r"10 different photos, 11 wanted; .*(broken|tiny)"):
        calibration.photos(folder, 11, 32)


def test_photos_smaller_than_asked_for_are_taken_as_they_are(folder):
    images = calibration.photos(folder, 10, 500).images
    assert {min(image.shape[:2]) for image in images} == {40, 48, 56}


def test_a_link_to_nowhere_and_a_cache_that_cannot_be_written_stop_nothing(folder, tmp_path):
    source = tmp_path / "photos"
    shutil.copytree(folder, source)
    (source / "gone.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "file").write_text("")
    chosen = calibration.photos(source, 4, 32, cache=tmp_path / "file" / "cache")
    assert len(digests(chosen)) == 4


def test_the_cache_is_read_until_a_file_changes(folder, tmp_path):
    source, cache = tmp_path / "photos", tmp_path / "cache"
    shutil.copytree(folder, source)
    first = calibration.photos(source, 4, 32, cache=cache)
    (file,) = cache.iterdir()
    marked = calibration.Photos([image * 0 for image in first.images], first.record)
    file.write_bytes(calibration._npz(marked))
    assert not calibration.photos(source, 4, 32, cache=cache).images[0].any(), "from the cache"
    assert calibration.photos(source, 4, 32, seed=1, cache=cache).images[0].any()
    Image.new("RGB", (50, 50), "red").save(source / "0.png")
    assert calibration.photos(source, 4, 32, cache=cache).images[0].any()
    for file in cache.iterdir():
        file.write_bytes(b"damaged")
    again = calibration.photos(source, 4, 32, cache=cache)
    assert again.record == calibration.photos(source, 4, 32).record


def test_network_images_are_srgb_in_0_to_1_channels_first():
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[:, 40:] = (255, 51, 0)
    image = calibration.network_image(photo, (32, 64))
    assert image.shape == (1, 3, 32, 64) and image.dtype == np.float32
    np.testing.assert_allclose(image[0, :, 16, 60], [1, 0.2, 0], atol=1e-6)
    assert calibration.nominal_size(photo, 96, 32) == (64, 128)


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize("lo, hi", [(0.0, 6.0), (-2.0, 2.0), (-3.7, 0.0), (0.5, 1.0), (-1, -0.5)])
def test_zero_is_a_level_and_the_ends_are_reached(lo, hi):
    scale, zero = affine(lo, hi)
    assert 0 <= zero <= 255
    assert (0 - zero) * scale <= min(lo, 0) + scale / 2 and (255 - zero) * scale >= hi - scale / 2
    assert 255 * scale == pytest.approx(max(hi, 0) - min(lo, 0))


def histogram(values):
    return calibration.observe(lambda: iter([{"x": np.asarray(values, np.float32)}]))["x"]


def test_ranges_of_a_bell_with_one_wild_value():
    values = np.random.default_rng(0).standard_normal(400_000)
    values[0] = 40
    found = {name: method(histogram(values)) for name, method in calibration.METHODS.items()}
    assert found["min-max"][1] == pytest.approx(40)
    assert found["percentile"][1] < 6 and found["percentile"][0] > -6
    assert found["mse"][1] < 30 and found["entropy"][1] < 30

    def error(ends):
        scale, zero = affine(*ends)
        levels = np.clip(np.round(values / scale) + zero, 0, 255)
        return np.mean((levels - zero - values / scale) ** 2) * scale**2

    assert error(found["mse"]) < 0.8 * min(error(found[name]) for name in found if name != "mse")


def test_a_relus_zeros_do_not_hide_the_rest():
    values = np.maximum(np.random.default_rng(0).standard_normal(100_000), 0)
    lo, hi = calibration.entropy(histogram(values))
    assert lo == 0 and hi > 2.5


def test_histograms_gather_all_photos_and_hold_constants():
    def run():
        yield {"x": np.full((2, 2), 3.0, np.float32), "y": np.float32([-1, 0])}
        yield {"x": np.full((2, 2), 3.0, np.float32), "y": np.float32([0, 5])}

    found = calibration.observe(run)
    assert found["x"].counts.sum() == 8 and (found["x"].lo, found["x"].hi) == (0, 3)
    assert (found["y"].lo, found["y"].hi) == (-1, 5)
    zeros = histogram(np.zeros(9))
    for method in calibration.METHODS.values():
        for each in (found["x"], found["y"], zeros):
            lo, hi = method(each)
            assert lo <= hi and isinstance(hi, float)
    assert isinstance(found["x"], Histogram)


# ---------------------------------------------------------------- the search


def test_the_drop_is_what_it_says():
    expected = [np.float32([[0, 1], [2, 3]]), np.float32([[1, 1], [3, 3]])]
    got = [e + np.float32(0.1) for e in expected]
    drop = quantize.compare(got, expected)
    assert drop.psnr_db == pytest.approx(20, abs=1e-3) == drop.worst_psnr_db
    assert drop.rel_rmse == pytest.approx(0.1 / np.sqrt((1.25 + 1) / 2), rel=1e-4)
    assert drop.spearman == pytest.approx(1)
    assert quantize.compare([-e for e in expected], expected).spearman == pytest.approx(-1)


@pytest.fixture(scope="module")
def found(onnx_model, photos):
    graph = OnnxGraph(onnx_model)
    sets = photos(SIZE, 8), photos(SIZE, 6, seed=1)
    return graph, sets, quantize.search(graph, *sets, max_drop=1.0)


def test_the_best_method_is_taken_and_everything_quantised_where_that_will_do(found):
    graph, (_, hold_out), (ranges, search) = found
    assert search.met and search.kept == [] and len(search.steps) == 1
    assert search.methods.keys() == calibration.METHODS.keys()
    assert search.drop == min(search.methods.values(), key=lambda drop: drop.rel_rmse)
    model = graph.quantized(ranges, graph.layers)
    expected = graph.run(graph.model, hold_out)
    assert quantize.compare(graph.run(model, hold_out), expected) == search.drop


def test_each_layers_own_error_is_reported(found):
    graph, (_, hold_out), (ranges, search) = found
    assert list(search.layers) == graph.layers
    worst = min(search.layers, key=lambda layer: search.layers[layer])
    few = hold_out[: quantize.SOME]
    alone = quantize.compare(
        graph.run(graph.quantized(ranges, [worst]), few), graph.run(graph.model, few)
    )
    assert alone.psnr_db == search.layers[worst] > search.drop.psnr_db
    report = json.loads(json.dumps(search.report()))
    assert report["layers"][worst] == pytest.approx(search.layers[worst], rel=1e-3)
    assert report["met"] is True and report["kept"] == []


def test_layers_are_kept_in_float_until_the_limit_is_met(found):
    graph, sets, (_, all_int8) = found
    limit = 0.8 * all_int8.drop.rel_rmse
    ranges, search = quantize.search(graph, *sets, max_drop=limit)
    assert search.met and 0 < len(search.kept) <= quantize.MAX_KEPT * len(graph.layers)
    assert search.kept == sorted(search.layers, key=lambda n: search.layers[n])[: len(search.kept)]
    assert [len(kept) for kept, _ in search.steps] == list(range(len(search.kept) + 1))
    assert all(drop.rel_rmse > limit for _, drop in search.steps[:-1])
    again, _ = quantize.search(graph, *sets, max_drop=limit)
    rest = [layer for layer in graph.layers if layer not in search.kept]
    assert graph.quantized(ranges, rest) == graph.quantized(again, rest)


def test_a_limit_that_cannot_be_met_says_so(found):
    graph, sets, _ = found
    _, search = quantize.search(graph, *sets, max_drop=0.0)
    assert not search.met and len(search.kept) == int(quantize.MAX_KEPT * len(graph.layers))
    assert search.report()["met"] is False


def test_the_default_network_in_int8_is_within_40_db(photos):
    """The file that ships, on parts of a real photo that it was not calibrated on."""
    content = bundle.read(find_model(None))
    model, fp32 = (content.model(content.find("onnx", kind)) for kind in ("int8", "fp32"))
    graph, hold_out = OnnxGraph(fp32), photos((256, 256), 3, seed=1)
    drop = quantize.compare(graph.run(model, hold_out), graph.run(graph.model, hold_out))
    assert drop.psnr_db > 40 and drop.worst_psnr_db > 38  # seen: 41.8 and 39.4
    assert len(model) < 0.35 * len(graph.model) + 150_000
