"""Where records and runs are kept.

base         the contract
writers, logs, reading, retention, growth, beginning    what stores share: repeats, logs of their
own, places in a stream, what may be forgotten, how followers hear of growth, appends not awaited
shared       what a store of several processes can do besides
moving       copying one store into another
listed       runs as lists and sets show them: without their large fields
counted      counts what is asked of another store

memory       `memory:`
sqlite       `sqlite:PATH`: _schema (tables), _transactions, _reads and _blocks (what is done in
them), _folder, _sweep, _faults, _lock, _backup, _incarnation, _moving; tails
redis        `redis:`: _url and _servers (which), _lane (calls), _scripts, _bell (who has to
look), _runs and _sets, _leases, _sweep, _moving
remote       `ws:`, a gateway elsewhere: link (one connection), under_way (what goes over it)
"""
