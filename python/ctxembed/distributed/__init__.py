"""Past one process: limits that processes share, and the engines that run them."""
