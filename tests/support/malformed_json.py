"""JSON that only some parsers read."""

from gateway.model.limits import JSON_DEPTH

DEEPEST = "[" * JSON_DEPTH + "]" * JSON_DEPTH
REFUSED = {
    "400 digits": "1" * 400,
    "5,000 digits": "1" * 5000,
    "a large exponent": "-1e999",
    "a large exponent with a sign": "1.5E+0400",
    "250 digits and an exponent": "1" * 250 + "e99",
    "NaN": "NaN",
    "Infinity": "[-Infinity]",
    "half a pair": r'"\ud800"',
    "the other half": r'"\udc00x"',
    "half a pair in a name": r'{"a": {"\ud800": 1}}',
    "900 arrays": "[" * 900 + "]" * 900,
    "900 objects": '{"a":' * 900 + "1" + "}" * 900,
    "one level too many": f"[{DEEPEST}]",
    "a level too many, with brackets in texts": '["]]]]", "\\"]]]\\\\", ' + f"{DEEPEST}]",
    "50,000 arrays": "[" * 50_000,
    "no end": '{"a": 1',
    "a byte order mark": "\ufeff1",
}
