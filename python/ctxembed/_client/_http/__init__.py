"""HTTP: one transport protocol, the libraries behind it, and the credentials."""
