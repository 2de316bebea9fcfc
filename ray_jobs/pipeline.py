"""All stages of a Classifier, as a Ray job.

ray job submit --working-dir . -- python ray_jobs/pipeline.py --spec classifier.yaml
"""

from entry import run

run("run", __doc__)
