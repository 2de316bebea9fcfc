"""Weights that open_clip saved answer here as they do there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitruvian.errors import SpecError
from vitruvian.models.inputs import preprocess_for, pretrained_config
from vitruvian.models.open_clip import CONFIG, WEIGHTS
from vitruvian.models.registry import architecture
from vitruvian.spec import Model

SMALL: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
NORMS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


def _saved(folder: Path, **changed: Any) -> Any:
    """Save a small CLIP as open_clip's `push_to_hf_hub` does; return it."""
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install open_clip_torch")
    torch.manual_seed(0)
    config = SMALL | changed
    module = open_clip.model.CLIP(**config).eval()
    for value in module.parameters():
        # What begins as zeros or ones would hide what is mixed up.
        torch.nn.init.normal_(value, std=0.05)
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": NORMS}))
    return module


@pytest.mark.parametrize("quick", [False, True])
def test_the_same_pictures_have_the_same_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    theirs = _saved(tmp_path / "weights", quick_gelu=quick)
    clip = {"head": "linear", "unfreezeVisual": 0}
    model = Model.model_validate({"architecture": "clip", "pretrained": str(tmp_path / "weights"), "clip": clip})
    ours = architecture("clip").build(model, ["a", "b"]).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features = ours.features(images)  # type: ignore[operator]
        assert torch.allclose(features @ theirs.visual.proj, theirs.encode_image(images), atol=1e-5)
    assert (preprocess_for(model).size, preprocess_for(model).mean) == (32, (0.5, 0.4, 0.3))  # type: ignore[union-attr]


def test_the_same_words_have_the_same_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPModel

    from vitruvian.models.inputs import place

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    theirs = _saved(tmp_path / "weights")
    ours = CLIPModel.from_pretrained(place(str(tmp_path / "weights")), use_safetensors=True).eval()
    tokens = torch.tensor([[49406, 320, 1125, 49407, 0, 0], [49406, 320, 49407, 0, 0, 0]])
    tokens = torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))
    with torch.no_grad():
        mine = ours.text_projection(ours.text_model(input_ids=tokens).pooler_output)
        assert torch.allclose(mine, theirs.encode_text(tokens), atol=1e-5)
        assert torch.equal(ours.logit_scale, theirs.logit_scale)


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({}, "makes no sense"),
        ({"model_cfg": SMALL | {"custom_text": True}}, "open_clip's custom_text isn't known here"),
        ({"model_cfg": SMALL | {"vision_cfg": {"timm_model_name": "x"}}}, "vision_cfg.timm_model_name isn't known"),
        ({"model_cfg": SMALL | {"text_cfg": {}}}, "makes no sense"),
    ],
)
def test_other_towers_are_refused(tmp_path: Path, saved: Any, told: str) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(saved | {"more": 1}))
    with pytest.raises(SpecError, match=told):
        pretrained_config(str(tmp_path), "config.json")


def test_weights_of_open_clip_on_the_hub_are_read_by_their_name(tmp_path: Path) -> None:
    _saved(tmp_path / "hub")

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = tmp_path / "hub" / self.path.rpartition("/")[2]
            there = file.is_file() and self.path.startswith("/org/small/resolve/")
            content = file.read_bytes() if there else b""
            self.send_response(200 if there else 404)
            if not there:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{file.name}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        code = (
            "from vitruvian.models.inputs import place, preprocess_for; from vitruvian.spec import Model\n"
            "from transformers import CLIPModel; name = 'hf-hub:org/small'\n"
            "print(preprocess_for(Model(architecture='clip', pretrained=name)).size, place(name) == place(name[7:]))\n"
            "print(sum(p.numel() for p in CLIPModel.from_pretrained(place(name)).vision_model.parameters()) > 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.stdout.split() == ["32", "True", "True"], done.stderr
