"""The virtual lab: boards as network namespaces of this machine, joined by a link model that runs in user space."""
