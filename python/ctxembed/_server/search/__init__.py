"""Search as a service: collections behind HTTP, whose searches share scans."""
