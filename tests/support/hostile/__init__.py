"""Attacks by hostile clients on a real gateway, with bounds on memory and event-loop stalls.

target     a gateway in a separate process, whose memory and stalls are measured
served     the program that this process runs
raw        clients that send arbitrary bytes
attacks_*  the attacks, each a function of the target; SECURITY.md names the threat
"""
