"""The version of Hasten."""

VERSION = "0.1.0"
