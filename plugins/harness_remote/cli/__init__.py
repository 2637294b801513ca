"""The commands ``agent``, ``lab`` and ``devices add|check|remove|setup``."""
