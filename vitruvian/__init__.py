"""Human poses and actions: classifiers trained, checked, shipped, served and watched.

Nothing of it is told to the makers of the libraries that it uses. They are asked here because this runs before any of
them is imported, in each process: a server's, a worker's, an exporter's.
"""

import os as _os
import sys as _sys

for _name, _value in {
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}.items():
    _os.environ.setdefault(_name, _value)
# OpenVINO and NNCF send as they are imported and have no such variable; without this library they send nothing.
_sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
