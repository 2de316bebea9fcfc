"""Ray Serve with the raw body, one replica, no limits but its own."""

import sys

import ray
import work
from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 1})
class Classifier:
    def __init__(self):
        work.load()

    async def __call__(self, request):
        import asyncio

        jpeg = await request.body()
        return await asyncio.to_thread(work.classify, jpeg)


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind(), blocking=True)
