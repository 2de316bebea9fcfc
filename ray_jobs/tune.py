"""Look for better values of a Classifier; its trials spread over the cluster, as a Ray job.

ray job submit --working-dir . -- python ray_jobs/tune.py --spec classifier.yaml --trials 40
"""

from entry import run

run("tune", __doc__)
