"""The demo dashboard: real work, streamed to a page written in Python.

demo_app     the application: home_page, census_page, ask_page, run_page, operator_page, over
layout and state
tasks        what runs; streams says what they append
census       counts code: census_sources, census_reading
answerer     answers questions: answerer_offline, answerer_model, answerer_tools
library      searches and reads the standard library: library_entries, library_ranking
operating    the operator's figures
cluster      two gateways on one machine, with cluster_tasks
"""

from gateway.extras import require

require("demo", "reflex", "httpx")
