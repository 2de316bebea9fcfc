"""Train a Classifier where it isn't trained yet, and measure it on the test part, as a Ray job.

ray job submit --working-dir . -- python ray_jobs/evaluate.py --spec classifier.yaml
"""

from entry import run

run("evaluate", __doc__)
