"""The claims of a token that is valid."""

NOW_S = 1_795_352_174.0
CLAIMS = {
    "aud": "realtime-streams",
    "iat": NOW_S,
    "exp": NOW_S + 60,
    "jti": "t_1",
    "scopes": ["read:runs:run_1"],
}
