"""Other servers, each started as its own documentation says, and ours."""
