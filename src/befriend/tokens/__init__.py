"""STUs, the semantic IDs of users: user vectors, residual quantizers, unique tokens, the trie of all STUs."""
