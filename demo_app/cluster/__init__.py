"""`make cluster-demo`: two gateways on one Valkey behind nginx, with a Celery worker.

__main__    starts the processes, and restarts a gateway that has ended
tasks       the Celery task whose stream the page shows
index.html  the page, in plain JavaScript
"""
