"""The browser page. Talks to the server over HTTP only and imports nothing of ours."""

from . import stubs

stubs.write_none()
