"""The virtual lab: boards as network namespaces of this machine, with a link model in user space between them."""
