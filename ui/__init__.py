"""The browser page. Talks to the server over HTTP only and imports nothing of ours."""
