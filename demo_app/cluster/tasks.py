"""The Celery application of the cluster demo."""

from __future__ import annotations

import os
import time

from gateway import streams, task
from gateway._internal.extras import needs
from gateway.integrations.celery import install

with needs("celery"):
    from celery import Celery

TICK_S = 0.25

app = Celery("cluster_tasks", broker=os.environ["CLUSTER_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)
install(app)

ticks = streams.define("ticks", int)


@task(id="tick", runner="celery")
def tick(count: int) -> int:
    """Append a number four times a second."""
    for number in range(count):
        ticks.append(number)
        time.sleep(TICK_S)
    return count
