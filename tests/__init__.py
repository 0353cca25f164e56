"""Tests of the gateway, its SDK, the hooks, the demo and the documents.

The folders mirror the rooms of `gateway/`: a test is where the module is whose behaviour it tests.

e2e      what needs a browser, other clients, published test suites or real faults
support  helpers, imported as `tests.support.…`, and programs that tests start
tools    programs for people: `python -m tests.tools.…`
"""
