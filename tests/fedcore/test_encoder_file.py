"""A trained encoder comes back from its file as it was, and embeds a person's images."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fedcore.data.loading import load_images, read_images
from fedcore.embed import EmbedOptions, embed
from fedcore.encoder_file import load_encoder, save_encoder
from fedcore.probes import extract_features
from fedcore.workload import model_for
from scenarios import InputError, load
from scenarios.schema import Workload

WORKLOAD = Workload(image_px=16, encoder_options={"widths": [6, 8, 8]}, objective_options={"hidden": 12, "outputs": 6})


def made(path, workload=WORKLOAD, channels=1):
    model = model_for(workload, channels)
    state = model.init_state(torch.Generator().manual_seed(1))
    save_encoder(path, state, workload, channels)
    return model, state


def pictures(folder, n=5, mode="L"):
    generator = np.random.default_rng(0)
    for k in range(n):
        (folder / str(k % 2)).mkdir(parents=True, exist_ok=True)
        shape = (20, 24) if mode == "L" else (20, 24, 3)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8), mode).save(folder / str(k % 2) / f"{k}.png")
    return folder


@pytest.mark.parametrize("workload", [WORKLOAD, load("phones").workload, WORKLOAD.model_copy(update={"objective": "byol"})])
def test_an_encoder_comes_back_as_it_was(tmp_path, workload):
    _, state = made(tmp_path / "e.safetensors", workload)
    back = load_encoder(tmp_path / "e.safetensors")
    assert back.workload == workload
    assert back.channels == 1
    assert back.state.keys() == state.keys()
    assert all(torch.equal(back.state[name], value) for name, value in state.items())


def test_a_few_images_of_a_folder_are_embedded_in_order(tmp_path):
    model, state = made(tmp_path / "e.safetensors")
    folder = pictures(tmp_path / "soil")
    assert embed(EmbedOptions(tmp_path / "e.safetensors", folder, tmp_path / "f.npz")) == (5, 8)
    written = np.load(tmp_path / "f.npz")
    assert written["files"].tolist() == ["0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png"]
    images, _ = read_images(folder, 16)
    np.testing.assert_allclose(written["features"], extract_features(model, state, images), rtol=1e-5, atol=1e-6)
    assert len(np.unique(written["features"].round(5), axis=0)) == 5


def test_grey_images_pass_for_colour_ones_as_they_do_in_a_mixed_folder(tmp_path):
    made(tmp_path / "e.safetensors", channels=3)
    embed(EmbedOptions(tmp_path / "e.safetensors", pictures(tmp_path / "grey"), tmp_path / "f.npz"))
    (tmp_path / "grey").rename(tmp_path / "mixed")
    pictures(tmp_path / "mixed" / "colour", mode="RGB")
    embed(EmbedOptions(tmp_path / "e.safetensors", tmp_path / "mixed", tmp_path / "m.npz"))
    alone, mixed = np.load(tmp_path / "f.npz"), np.load(tmp_path / "m.npz")
    same = [mixed["files"].tolist().index(name) for name in alone["files"].tolist()]
    np.testing.assert_allclose(alone["features"], mixed["features"][same], rtol=1e-5, atol=1e-6)


def test_images_are_read_as_in_training(tmp_path):
    folder = pictures(tmp_path / "soil", 40)
    images, files = read_images(folder, 16)
    np.testing.assert_array_equal(images, load_images(folder, size_px=16).images)
    assert len(files) == 40


def test_what_does_not_go_together_is_refused(tmp_path):
    made(tmp_path / "e.safetensors")
    colour = pictures(tmp_path / "soil", mode="RGB")
    with pytest.raises(InputError, match="has colour images, expected grey ones"):
        embed(EmbedOptions(tmp_path / "e.safetensors", colour, tmp_path / "f.npz"))
    with pytest.raises(InputError, match=r"expected \(N, 16, 16, 1\) uint8"):
        load_encoder(tmp_path / "e.safetensors").embed(np.zeros((2, 8, 8, 1), dtype=np.uint8))
    made(tmp_path / "gpt.safetensors", load("phones").workload)
    with pytest.raises(InputError, match="which reads text"):
        load_encoder(tmp_path / "gpt.safetensors").embed(np.zeros((2, 16, 16, 1), dtype=np.uint8))
    assert not (tmp_path / "f.npz").exists()


def test_files_that_are_none_of_ours_are_refused(tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        load_encoder(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="damaged or cut short"):
        load_encoder(path)
    save_file({"a": torch.zeros(2)}, str(path))
    with pytest.raises(InputError, match="does not say what it is"):
        load_encoder(path)
    _, state = made(path)
    save_encoder(path, {**state, next(iter(state)): torch.zeros(1)}, WORKLOAD, 1)
    with pytest.raises(InputError, match="weights of another model"):
        load_encoder(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged or cut short"):
        load_encoder(path)


def test_the_command_writes_features_and_refuses_in_a_sentence(tmp_path):
    made(tmp_path / "e.safetensors")
    folder = pictures(tmp_path / "soil")
    command = [sys.executable, "-m", "fedcore.embed", "--encoder", str(tmp_path / "e.safetensors"), "--data", str(folder)]
    done = subprocess.run([*command, "--output", str(tmp_path / "f.npz")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 features of each of 5 images" in done.stdout
    command[4] = str(tmp_path / "none")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: encoder file")
