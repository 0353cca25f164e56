"""`python -m gateway` is `realtime`."""

from gateway.cli import main

main()
