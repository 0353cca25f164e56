"""Search and read the sources of Python's standard library.

tools    `search` and `read`, their JSON Schemas, and the check of a model's calls
entries  the definitions of each module, from its syntax tree
ranking  an inverted index of the definitions, and the score of a hit
"""
