"""What every server under test does with a picture; imported by peers in environments of their own.

MODEL is `sleep` (exactly 50 a second, one at a time), `null` (neither decoding nor a model), or `vit` (ViT-B/16 of
random weights in torch, after decoding and resizing with Pillow in full, as tutorials do it).
"""

import io
import os
import threading
import time

MODEL = os.environ.get("BENCH_MODEL", "null")
CLASSES = 15
_lock = threading.Lock()
_module = None


def load():
    """Load the model, if it is one."""
    global _module
    if MODEL == "vit":
        import torch
        from transformers import ViTConfig, ViTForImageClassification

        torch.manual_seed(0)
        torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "2")))
        weights = os.environ.get("BENCH_WEIGHTS")
        if weights:
            _module = ViTForImageClassification.from_pretrained(weights).eval()
        else:
            _module = ViTForImageClassification(ViTConfig(num_labels=CLASSES)).eval()


def classify(jpeg):
    """Return a probability for each class."""
    if MODEL == "sleep":
        with _lock:
            time.sleep(0.02)
    if MODEL != "vit":
        return [1.0] + [0.0] * (CLASSES - 1)
    import numpy as np
    import torch
    from PIL import Image

    image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((224, 224))
    pixels = (np.asarray(image, dtype=np.float32) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        logits = _module(pixel_values=torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]).logits
    return torch.softmax(logits, 1)[0].tolist()
