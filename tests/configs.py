"""Configs of five existing systems, as their documentation has them."""

from __future__ import annotations

import json

PREPROCESSING = """{
  "huggingface_dataset_name": "Bingsu/Human_Action_Recognition",
  "test_size": 0.25,
  "validation_size": 0.1,
  "output_dir": "data"
}"""
TRAINING = """{
  "directories_config": {
    "input_dir": "data", "clean_train_dir_before_training": true, "train_dir": "data/checkpoints",
    "training_curve_path": "figs/curves.png", "best_model_path": "models/best"
  },
  "model_params": {"model_name": "google/vit-base-patch16-224", "nb_layers_to_freeze": 2},
  "training_config": {"enable_gpu": true, "learning_rate": 5e-5, "batch_size": 32, "num_train_epochs": 8}
}"""
TESTING = """{
  "input_dir": "data/test", "trained_model_path": "models/best",
  "metrics_output_file": "data/output/performance_metrics_15_2.xlsx",
  "push_model_s3": {
    "enabled": true,
    "conditions": [{"metric": "accuracy", "threshold": 0.78}, {"metric": "precision", "threshold": 0.75}],
    "bucket_name": "pose-models", "prefix": "vit/best/"
  }
}"""
NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "markdown", "source": ["# Prediction"]},
            {
                "cell_type": "code",
                "source": ["%matplotlib inline\n", "import numpy as np\n", "data_dir = 'data/unseen'\n"],
            },
            {"cell_type": "code", "source": "model = load('trained_model.h5')\nfor name in []:\n    print(name)"},
        ]
    }
)
CONFIG_PY = """
from pathlib import Path

BATCH_SIZE = 64
LEARNING_RATE = 1e-3
EPOCHS: int = 100
MODEL_PATH = Path(__file__).parent / "pose_classifier.pth"
"""
MAIN_PY = """
from data import download_images_from_s3

def main():
    download_images_from_s3(["checkin-poses"])

main()
"""
CLASS_MAPPING = """{
  "class_to_idx": {"1": 0, "2": 4}, "idx_to_class": {"0": "1", "4": "2"}, "classes": ["1", "2"]
}"""
VIT_CONFIG = """{
  "_name_or_path": "google/vit-base-patch16-224-in21k", "architectures": ["ViTForImageClassification"],
  "hidden_size": 768, "id2label": {"0": "calling"}, "label2id": {"calling": 0}, "image_size": 224,
  "model_type": "vit", "num_hidden_layers": 12, "torch_dtype": "float32"
}"""
PROCESSOR = """{
  "do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "size": {"height": 224, "width": 224}
}"""
CLIP_YAML = """
model: {model_name: openai/clip-vit-large-patch14, unfreeze_visual: true}
training:
  batch_size: 64
  max_epochs: 10
  lr: 3e-6
  no_mixed_precision: false
tracking: {experiment_name: clip_har_v2, use_mlflow: true, no_wandb: true}
"""
