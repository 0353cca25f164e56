"""`ws:`: the store's contract over WebSockets, for workers of a gateway elsewhere.

connection  one WebSocket: calls, reconnects
pending     requests and subscriptions of a connection
store       the store
"""
