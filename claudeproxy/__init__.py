"""The Anthropic Messages API in front of any language model: a Twisted daemon, and a library for Twisted programs."""
