"""The demo dashboard: tasks that do real work, and pages in Python that show their streams.

`demo_app` is the Reflex application. It adds the pages and starts the gateway in its own process.
The demo uses the public API of `gateway` and `gateway.ui`, as a user's application does. Only
`operator_feed` reads the gateway of its process directly.

demo_app       the Reflex application: routes, the gateway, work done at start
pages/         one module for each page, and the layout that they share
state          server-side state: the visitor, the forms, the run that a page shows
tasks          the tasks that visitors start
streams        the streams that tasks append to and pages subscribe to
census/        counts lines and names in Python source files
assistant/     answers questions, with a model or offline
stdlib_search/ searches and reads the standard library's sources
operator_feed  the stream of gateway metrics behind the operator page
cluster/       two gateways on one store, nginx and a Celery worker
"""

from gateway._internal.extras import require

require("ui", "reflex")
