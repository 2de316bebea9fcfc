"""The PhysiQ Pose Classifier: constants in config.py, three JSON files of poses and labels."""

from __future__ import annotations

from collections.abc import Iterator

from vitruvian.migration.table import Aside, Given, Habit, Key, Kind, Outcome, Refused, Remark, System, Whole

_SORTED = "sort the pictures into a folder for each pose and name it in spec.data.source"
_POSEDB = f"data.format posedb isn't implemented yet; {_SORTED}"
_LABELS = "a bundle's labels hold it; classes are the folders' names, in their order, numbered without gaps"


def _buckets(given: Given) -> Iterator[Outcome]:
    if not all(isinstance(bucket, str) and bucket for bucket in given.value):
        yield Refused("is no list of buckets", "name them as texts")
    elif len(given.value) == 1:
        yield Aside("spec.data.source", f"s3://{given.value[0]}", _POSEDB)
    elif given.value:
        yield Remark(f"a source is one folder or s3://BUCKET/PREFIX, not yet several buckets; {_SORTED}")
    else:
        yield Remark(f"the default bucket's name isn't told; {_SORTED}")


SYSTEM = System(
    title="PhysiQ Pose Classifier (bb-pose-classifier)",
    name="bodybuilding-poses",
    data="the folder of the sorted pictures, with a folder for each pose in it",
    keys=(
        Key(
            "BATCH_SIZE",
            "spec.training.batchSize",
            "32 unless it is set",
            Kind.integer,
            ("S2.19", "S2.23", "S2.29"),
            default=32,
        ),
        Key(
            "LEARNING_RATE",
            "spec.training.learningRate",
            "1e-4 unless it is set; here the peak of a rise and a fall",
            Kind.number,
            ("S2.20", "S2.23", "S2.29"),
            default=1e-4,
        ),
        Key(
            "EPOCHS",
            "spec.training.epochs",
            "the most; 50 unless it is set",
            Kind.integer,
            ("S2.21", "S2.23", "S2.29"),
            default=50,
        ),
        Key(
            "download_images_from_s3",
            "spec.data.source",
            "the call in `main.py`; one bucket is written as a comment, several aren't possible yet: " + _SORTED,
            Kind.list,
            ("S2.02",),
            rule=_buckets,
        ),
        Key("IMAGE_PATH", "`vitruvian predict BUNDLE PATH`", "files and folders are arguments", ids=("S2.30",)),
        Key("class_to_idx", "`labels` in bundle.json", _LABELS, ids=("S2.12",)),
        Key("idx_to_class", "`labels` in bundle.json", _LABELS, ids=("S2.12",)),
        Key("classes", "`labels` in bundle.json", _LABELS, ids=("S2.12",)),
    ),
    habits=(
        Habit("spec.data.format", "images", "pictures", ("S2.07",)),
        Habit("spec.model.architecture", "resnet50", "ResNet50", ("S2.15",)),
        Habit(
            "spec.model.pretrained",
            "microsoft/resnet-50",
            "pretrained on ImageNet; or torchvision's own weights as safetensors, see models.md",
            ("S2.15",),
        ),
        Habit(
            "spec.data.validationSize",
            0.2,
            "20 %, here of what the test part (`testSize`, 0.2) leaves; there is none there",
            ("S2.08",),
        ),
        Habit("spec.training.weightDecay", 0.0, "Adam without weight decay", ("S2.18",)),
        Habit("spec.training.augmentation", "none", "pictures are resized and normalised only", ("S2.17",)),
        Habit("spec.training.earlyStopping.patience", 10, "the key isn't told, its default is", ("S2.22",)),
    ),
    wholes=(
        Whole("poses.json", "the folders' names", f"poses are classes; {_POSEDB}", ("S2.09",)),
        Whole("db_labels.json", "the folders", f"a picture's folder is its label; {_POSEDB}", ("S2.10",)),
    ),
)
