"""Scopes, keys and tokens. No I/O except for key files.

May import `errors`, `settings`, `_internal` and `model`.

    claims       names and forms of a token's claims
    key_files    the key ring of a process, from its settings
    keys         keys that sign and verify tokens
    permissions  what a verified token allows
    revocations  the list of revoked tokens
    secret_file  the secret key: from the settings, or a file next to the SQLite file
    verifier     reads and verifies a token
"""
