"""`ws:`: the store contract over WebSockets, for workers that connect to a gateway.

connection  one WebSocket: calls, subscriptions, reconnects
pending     requests and subscriptions of a connection
store       the store
"""
