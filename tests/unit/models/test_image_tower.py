"""Image towers: what they are by definition, and which are refused."""

from __future__ import annotations

import pickle

import huggingface_hub.constants
import open_clip
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from mcse.models.image_tower import load_image_tower, tower_commit
from tests.fixtures.hub import forget_commits
from tests.fixtures.image_folder import image

SMALL_TIMM = "timm:test_vit.r160_in1k/none"


def test_pixels_are_the_image_resized_and_centred(tmp_path):
    tower = load_image_tower("pixels:4")
    assert (tower.width, tower.spec) == (48, "pixels:4")
    assert "4x4" in tower.preprocessing
    grey = Image.new("RGB", (9, 5), (51, 102, 255))
    row = tower(tower.preprocess(grey)[None])[0].reshape(3, 4, 4)
    expected = torch.tensor([0.2, 0.4, 1.0]) - 0.5
    torch.testing.assert_close(row, expected[:, None, None].expand(3, 4, 4))
    pickle.loads(pickle.dumps(tower.preprocess))


def test_a_timm_tower_gives_timms_pooled_features():
    tower = load_image_tower(SMALL_TIMM)
    assert not tower.training
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit.r160_in1k", pretrained=False).eval()
    pixels = torch.stack([tower.preprocess(image(i, size=(200, 180))) for i in range(3)])
    assert pixels.shape == (3, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), model.forward_head(model.forward_features(pixels), pre_logits=True))
        assert tower(pixels).shape == (3, tower.width)
    tower(pixels).square().sum().backward()  # end-to-end training reaches the weights
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in tower.parameters())


@pytest.mark.slow
def test_an_open_clip_tower_gives_clips_image_features(tmp_path):
    random = load_image_tower("open_clip:ViT-S-32-alt/none")
    torch.manual_seed(5)
    clip = open_clip.create_model("ViT-S-32-alt", pretrained=None).eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    tower = load_image_tower(f"open_clip:ViT-S-32-alt/{tmp_path / 'clip.pt'}")
    pixels = torch.stack([tower.preprocess(image(i, size=(300, 250))) for i in range(2)])
    assert pixels.shape == (2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), clip.encode_image(pixels))
        assert not torch.allclose(tower(pixels), random(pixels))
    assert tower.digest() != random.digest()
    assert '"interpolation": "bicubic"' in tower.preprocessing


def test_random_weights_are_the_same_every_time_and_disturb_no_draws():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = load_image_tower(SMALL_TIMM)
    torch.testing.assert_close(torch.rand(3), expected)
    assert first.digest() == load_image_tower(SMALL_TIMM).digest()
    assert first.digest() != load_image_tower(SMALL_TIMM, seed=1).digest()


def test_a_timm_checkpoint_with_its_classifier_loads(tmp_path):
    model = timm.create_model("test_vit.r160_in1k", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    tower = load_image_tower(f"timm:test_vit.r160_in1k/{tmp_path / 'vit.pth'}")
    torch.testing.assert_close(tower.state_dict()["body.cls_token"], model.state_dict()["cls_token"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "expected open_clip:MODEL/PRETRAINED, timm:MODEL or pixels:N"),
        ("clip:ViT-B-32", "expected open_clip"),
        ("pixels:0", "a whole number from 1 to 1024"),
        ("pixels:100000", "a whole number from 1 to 1024"),
        ("pixels:²", "a whole number from 1 to 1024"),
        ("pixels:big", "a whole number from 1 to 1024"),
        ("timm:resnet5/none", r"unknown model 'resnet5'; did you mean resnet"),
        ("timm:resnet18/absent.pt", r"no checkpoint file absent\.pt"),
        ("timm:resnet18.a1_in1k", "weights cannot be loaded"),
        ("open_clip:RN50", r"say which weights, such as open_clip:RN50/openai"),
        ("open_clip:RN50/best", r"'best' is neither a checkpoint file nor a tag of RN50; its tags: openai, yfcc15m"),
        ("open_clip:ViT-B-33/none", "did you mean ViT-B-32"),
    ],
)
def test_unknown_towers_are_refused(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_image_tower(spec)
    assert repr(spec) in str(caught.value)


class _Code:
    def __reduce__(self):
        return (pytest.fail, ("ran the code of a pickle",))


def test_a_pickle_of_weights_runs_no_code(tmp_path):
    """timm 1.0.15 runs it unless it is told not to."""
    path = tmp_path / "tower.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "code": _Code()}, path)
    with pytest.raises(ValueError, match="its weights cannot be loaded: "):
        load_image_tower(f"timm:test_vit.r160_in1k/{path}")


def test_a_timm_tower_of_the_hub_stays_at_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    forget_commits()
    home = tmp_path / "models--org--tower"
    (home / "refs").mkdir(parents=True)
    states = {}
    for commit, seed in (("ab" * 20, 0), ("cd" * 20, 1)):
        tower = load_image_tower("timm:test_vit/none", seed=seed)
        model = timm.create_model("test_vit", pretrained=False)
        model.load_state_dict({**model.state_dict(), **tower.body.state_dict()})
        save_for_hf(model, home / "snapshots" / commit, model_args={})
        states[commit] = tower.body.state_dict()["patch_embed.proj.weight"]
    for commit in states:  # the hub moves on, the process does not
        (home / "refs" / "main").write_text(commit)
        tower = load_image_tower("timm:hf-hub:org/tower")
        assert torch.equal(tower.body.state_dict()["patch_embed.proj.weight"], states["ab" * 20])
        assert tower_commit(tower.spec) == "ab" * 20
    forget_commits()
    moved = load_image_tower("timm:hf-hub:org/tower").body.state_dict()["patch_embed.proj.weight"]
    assert torch.equal(moved, states["cd" * 20])
    assert not torch.equal(moved, states["ab" * 20])
    forget_commits()
