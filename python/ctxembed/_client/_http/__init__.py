"""HTTP: one transport protocol, the libraries behind it, and credentials."""
