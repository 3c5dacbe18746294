from __future__ import annotations

import io
import itertools
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from argan.errors import InputError, MissingFileError, ShapeError
from argan_train import evaluate
from argan_train.evaluate import Scene

DATA = Path(os.environ.get("ARGAN_DATA", Path(__file__).parents[2] / "../shared/data"))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def scene(sequence="a", group="oracle other", ratios=True):
    """4 x 6 px, the disparity growing to the right; the photo's red is the disparity."""
    disparity = np.tile(np.arange(1.0, 7), (4, 1))
    image = np.repeat(disparity[..., None], 3, axis=2).astype(np.uint8)
    name = f"{sequence}_{next(scene.count)}"
    known = np.ones(disparity.shape, bool)
    return Scene(group, name, sequence, image, disparity, known, ratios)


scene.count = itertools.count()


def red(image):
    return image[..., 0].astype(np.float32)


def test_the_truth_scores_zero_and_each_planted_error_is_seen():
    def model(predict):
        return evaluate.evaluate(predict, [scene()]).means()["oracle other"]["model"]

    assert model(red) == pytest.approx(
        {"rel_rmse": 0, "spearman": 1, "abs_rel": 0, "delta1": 1, "side": 0}, abs=1e-6
    )
    assert model(lambda image: -red(image))["spearman"] == pytest.approx(-1), "sign"
    assert model(lambda image: -red(image))["rel_rmse"] == pytest.approx(1)
    assert model(lambda image: red(image)[:, ::-1])["spearman"] == pytest.approx(-1), "mirrored"
    assert model(lambda image: 1 / red(image))["spearman"] == pytest.approx(-1), "depth"
    assert model(lambda image: 0 * red(image))["rel_rmse"] == pytest.approx(1)
    with pytest.raises(ShapeError):
        model(lambda image: red(image).T)


def test_frames_of_a_sequence_count_as_one_scene():
    answers = iter([1, 1, 0])  # right on both frames of a, nothing on b

    def predict(image):
        return next(answers) * red(image)

    result = evaluate.evaluate(predict, [scene("a"), scene("a"), scene("b")])
    assert result.means()["oracle other"]["model"]["rel_rmse"] == pytest.approx(0.5)
    assert result.table().splitlines()[1].split()[:4] == ["oracle", "other", "2", "model"]


def test_a_set_without_ratios_has_no_depth_metrics():
    result = evaluate.evaluate(red, [scene(ratios=False)])
    assert set(result.means()["oracle other"]["model"]) == {"rel_rmse", "spearman"}
    assert result.table().splitlines()[1].split()[-4:] == ["-"] * 4


@pytest.fixture
def data(tmp_path):
    """Two scenes of one depth each way, a ray-traced one and a portrait, in the given formats."""
    depth = np.tile(np.array([1000, 2000, 4000, 0], np.uint16), (4, 1))
    photo = np.full((4, 4, 3), 9, np.uint8)
    rows = {
        "render_scene00": {"type": "depth", "scale": 0.001, "offset": 0.0},
        "middlebury_x": {"type": "disparity", "scale": 0.001, "offset": 0.0},
        "hci_antinous": {"type": "disparity", "scale": 0.001, "offset": -3.0},
        "nyuv2_dining_1": {"type": "depth", "scale": 0.001, "offset": 0.0},
        "nyuv2_dining_3": {"type": "depth", "scale": 0.001, "offset": 0.0},
    }
    with zipfile.ZipFile(tmp_path / "eval-depth.zip", "w") as archive:
        archive.writestr("index.json", json.dumps(rows))
        for name in rows:
            archive.writestr(f"{name}/gt.png", png(depth))
            archive.writestr(f"{name}/image.png", png(photo))
    folder = tmp_path / "oracle-public/flowers_11"
    folder.mkdir(parents=True)
    folder.joinpath("disp.png").write_bytes(png(np.array([[0, 65535]] * 2, np.uint16)))
    folder.joinpath("aif.png").write_bytes(png(photo[:2, :2]))
    description = {"family": "flowers", "inv_depth_lo": 0.25, "inv_depth_hi": 2.0}
    folder.joinpath("scene.json").write_text(json.dumps(description))
    mask = np.zeros((4, 4), bool)
    mask[:, 1:3] = True
    with zipfile.ZipFile(tmp_path / "portrait-masks.zip", "w") as archive:
        archive.writestr("portrait-masks/001_mask.png", png(mask))
        archive.writestr("portrait-masks/001.jpg", png(photo))
    return tmp_path


def test_depth_is_inverted_and_disparity_is_not(data):
    scenes = {s.name: s for s in evaluate.eval_depth_scenes(data / "eval-depth.zip")}
    assert scenes["render_scene00"].disparity[0, :3].tolist() == [1, 0.5, 0.25]
    assert scenes["middlebury_x"].disparity[0, :3].tolist() == [1, 2, 4]
    assert scenes["hci_antinous"].disparity[0, :3].tolist() == [-2, -1, 1]
    assert {name: s.ratios for name, s in scenes.items() if not s.ratios} == {"hci_antinous": False}
    assert scenes["render_scene00"].valid[0].tolist() == [True, True, True, False]
    assert {s.group: s.sequence for s in scenes.values()} == {
        "eval-depth flowers": "render_scene00",
        "eval-depth rooms": "nyuv2_dining",
        "eval-depth other": "hci_antinous",
    }


def test_oracle_and_portraits_are_read(data):
    (flower,) = evaluate.oracle_scenes(data / "oracle-public")
    assert flower.group == "oracle flowers" and flower.disparity[0].tolist() == [0.25, 2]
    (person,) = evaluate.portrait_scenes(data / "portrait-masks.zip")
    assert person.disparity[0].tolist() == [0, 1, 1, 0] and not person.ratios


def test_the_toy_world_of_measuring_is_sharp_blurred_and_off_centre():
    scenes = list(evaluate.toy_scenes(count=3, size=16))
    assert [s.group for s in scenes[::3]] == ["toy sharp", "toy blurred", "toy off centre"]
    np.testing.assert_array_equal(scenes[0].disparity, scenes[3].disparity)
    assert not np.array_equal(scenes[0].image, scenes[3].image)
    assert scenes[0].image.shape == (16, 16, 3) and scenes[0].image.dtype == np.uint8
    assert scenes[0].disparity.max() > 0.5, "a subject"


def test_the_radial_prior_fails_off_centre():
    means = evaluate.evaluate(red, evaluate.toy_scenes(count=48, size=32)).means()
    centred, aside = (means[f"toy {kind}"]["radial"] for kind in ("sharp", "off centre"))
    assert centred["spearman"] > 0.4 > 0.25 > aside["spearman"]
    assert centred["rel_rmse"] < 0.9 < aside["rel_rmse"]


def test_the_command_prints_and_writes(data, tmp_path, monkeypatch, capsys):
    model = SimpleNamespace(depth=lambda image: np.cumsum(np.ones(image.shape[:2]), axis=1))
    monkeypatch.setattr(evaluate.argan, "load", {"some.argan": model}.__getitem__)
    monkeypatch.setattr(evaluate, "toy_scenes", lambda: iter([scene(group="toy sharp")]))
    out = tmp_path / "deep/out"
    assert evaluate.main(["some.argan", "--data", str(data), "-o", str(out)]) == 0
    table = capsys.readouterr().out
    groups = ["toy sharp", "eval-depth flowers", "eval-depth rooms", "eval-depth other",
              "oracle flowers", "portraits people"]  # fmt: skip
    assert all(group in table for group in groups)
    written = json.loads((out / "evaluation.json").read_text())
    assert list(written["means"]) == groups and len(written["frames"]) == 8
    assert list(written["means"]["toy sharp"]) == [
        "model", "constant", "radial", "ramp", "radial+ramp"
    ]  # fmt: skip
    assert written["means"]["portraits people"]["constant"]["in_front"] == 0.5
    with Image.open(out / "evaluation.png") as page:
        assert page.width > page.height / 10 and page.getextrema() != ((0, 0),) * 3


def test_portraits_stay_off_the_page(data):
    result = evaluate.evaluate(red, evaluate.portrait_scenes(data / "portrait-masks.zip"))
    photo, mask, _ = result.frames[0].tiles
    assert photo.getextrema() == ((0, 0),) * 3 and mask.getextrema() == ((0, 255),) * 3


def test_absent_data_is_one_line_that_says_what_to_pass(tmp_path, monkeypatch):
    monkeypatch.delenv("ARGAN_DATA", raising=False)
    with pytest.raises(InputError, match="pass --data DIR, a folder with eval-depth.zip, "):
        evaluate.main(["x.argan", "-o", str(tmp_path / "out")])
    with pytest.raises(MissingFileError, match="has no portrait-masks.zip: pass its folder as"):
        evaluate.main(["x.argan", "--only", "portraits", "--data", str(tmp_path), "-o", "out"])
    (tmp_path / "eval-depth.zip").write_text("not a zip")
    with pytest.raises(InputError, match="not a zip"):
        list(evaluate.eval_depth_scenes(tmp_path / "eval-depth.zip"))
    (tmp_path / "oracle-public").mkdir()
    with pytest.raises(MissingFileError, match="no scenes there"):
        list(evaluate.oracle_scenes(tmp_path / "oracle-public"))
    assert not (tmp_path / "out").exists()


# (relative RMSE, Spearman) of the unlearned baselines, measured apart from this code, on other
# pictures of the same kinds.
KNOWN = {
    ("eval-depth flowers", "radial"): (0.89, 0.32),
    ("eval-depth flowers", "ramp"): (0.93, 0.49),
    ("eval-depth flowers", "radial+ramp"): (0.83, 0.57),
    ("portraits people", "radial"): (0.87, 0.46),
    ("portraits people", "ramp"): (0.96, 0.20),
    ("portraits people", "radial+ramp"): (0.87, 0.51),
}


def test_baselines_stand_where_they_are_known_to():
    if not (DATA / "portrait-masks.zip").exists():
        pytest.skip(f"no reference data in {DATA}: set ARGAN_DATA")
    everything = evaluate.eval_depth_scenes(DATA / "eval-depth.zip")
    flowers = (scene for scene in everything if scene.group == "eval-depth flowers")
    people = evaluate.portrait_scenes(DATA / "portrait-masks.zip")
    third = itertools.islice(people, 0, None, 3)
    result = evaluate.evaluate(lambda image: image.mean(axis=2), itertools.chain(flowers, third))
    means = result.means()
    for (group, method), (rel_rmse, rank) in KNOWN.items():
        assert means[group][method]["rel_rmse"] == pytest.approx(rel_rmse, abs=0.02)
        assert means[group][method]["spearman"] == pytest.approx(rank, abs=0.04)
