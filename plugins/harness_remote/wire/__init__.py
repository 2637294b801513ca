"""The code that client and agent share: protocol, message codec, credentials, frame socket."""
