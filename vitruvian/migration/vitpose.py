"""ViTPose_classification: a notebook with one variable, a CNN on the heatmaps of ViTPose."""

from __future__ import annotations

from vitruvian.migration.table import Habit, Key, Kind, System

SYSTEM = System(
    title="ViTPose_classification (heatmaps)",
    name="vitpose",
    data="the folder of your .npy heatmaps, with a folder for each class in it",
    keys=(
        Key(
            "data_dir",
            "spec.data.source",
            "for training, a folder with a folder for each class; `vitruvian predict BUNDLE FOLDER` takes unseen ones",
            Kind.text,
            ("S1.11", "S1.02", "S1.12"),
        ),
    ),
    habits=(
        Habit("spec.data.format", "heatmaps", "`.npy` files of [1, 17, 64, 48]", ("S1.01",)),
        Habit(
            "spec.model.architecture", "heatmap-cnn", "a CNN on heatmaps, in torch instead of TensorFlow", ("S1.05",)
        ),
    ),
)
