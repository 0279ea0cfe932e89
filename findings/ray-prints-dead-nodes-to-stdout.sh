#!/usr/bin/env bash
# A Ray driver that was started with log_to_driver=False and logging_level=ERROR still gets text on its standard output when another
# node of the cluster is killed: the last lines of that node's log. A program that prints JSON there is not read any more.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q ray==2.60.0
cat > "$work/driver.py" <<'PY'
import logging
import sys
import time

import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
print("mine", flush=True)
time.sleep(40)
PY
cat > "$work/try.py" <<'PY'
import subprocess
import sys
import time

import ray
from ray.cluster_utils import Cluster

room = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=room)
other = cluster.add_node(**room, node_ip_address="127.0.0.2")
driver = subprocess.Popen([sys.executable, sys.argv[1], cluster.address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
time.sleep(10)
cluster.remove_node(other, allow_graceful=False)
lines = driver.communicate()[0].splitlines()
cluster.shutdown()
foreign = [line for line in lines if line != "mine"]
print(f"ray {ray.__version__}: {len(foreign)} lines that the driver did not print; first: {foreign[0][:80] if foreign else None!r}")
sys.exit(not foreign)
PY
RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" "$work/try.py" "$work/driver.py" 2>/dev/null
