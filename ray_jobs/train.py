"""Prepare the data of a Classifier and train it, as a Ray job.

ray job submit --working-dir . -- python ray_jobs/train.py --spec classifier.yaml
"""

from entry import run

run("train", __doc__)
