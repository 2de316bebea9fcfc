"""Train variants of a Classifier and compare them, as a Ray job.

ray job submit --working-dir . -- python ray_jobs/study.py --spec classifier.yaml --vary model.freezeLayers=0,2,4
"""

from entry import run

run("study", __doc__)
