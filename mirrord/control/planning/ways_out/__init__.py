"""How each kind of destination is planned, and said in words: a file for each kind."""
