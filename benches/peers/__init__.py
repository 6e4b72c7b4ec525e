"""The peers of each case, called as their own documentation recommends for speed."""
