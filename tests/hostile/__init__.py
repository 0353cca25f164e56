"""What hostile clients may cost: attacks on a real gateway, with memory and event loop bounded.

target     a gateway in a process of its own, whose memory and stalls are measured
served     what that process runs
raw        clients that send any bytes
attacks_*  the attacks, each a function of the target; SECURITY.md names the threat
"""
