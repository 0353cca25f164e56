"""The pages of the dashboard, as functions that return Reflex components.

home      the start page: forms that start runs, and the visitor's recent runs
census    progress and result of one census
ask       one question, its tool calls and its answer
run       any run: status, children, streams, an access token to copy
operator  live metrics of the gateway
layout    the frame around each page, and components that several pages use
"""
