"""Every peer, used as its own documentation recommends for speed."""
