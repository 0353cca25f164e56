"""One file for each library that is integrated, imported only when used."""
