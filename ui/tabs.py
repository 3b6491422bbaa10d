"""Which tab's state is forgotten where there are too many."""

from __future__ import annotations

from gradio.state_holder import SessionState, StateHolder

from .session import Session


class Tabs(StateHolder):  # type: ignore[misc]  # Gradio tells no types
    """Gradio's, but a conversation goes last: any call makes a tab, and needs no key for it."""

    def update(self, session_id: str) -> None:
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            if len(self.session_data) <= self.capacity:
                return
            oldest = [name for name in self.session_data if name != session_id]
            silent = (name for name in oldest if not _talks(self.session_data[name]))
            gone = next(silent, oldest[0])
            del self.session_data[gone]
            self.time_last_used.pop(gone, None)


def _talks(state: SessionState) -> bool:
    held = (value for value in list(state.state_data.values()) if isinstance(value, Session))
    return any(session.transcript.turns or session.live for session in held)
