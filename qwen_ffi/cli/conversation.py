"""A conversation: messages in OpenAI's form, in memory and as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import QwenFileFormatError, QwenValueError


@dataclass(slots=True)
class Conversation:
    """Messages as {"role": ..., "content": ...}; `stopped` are the places of answers that were not heard to their end."""

    messages: list[dict[str, str]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    path: Path | None = None  # the file that it was read from or written to

    @property
    def system(self) -> str | None:
        """The system message, which is the first if there is one."""
        first = self.messages[0] if self.messages else {"role": ""}
        return first["content"] if first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        old = self.system is not None
        new = [{"role": "system", "content": text}] if text else []
        self.messages[:old] = new
        self.stopped = [place + len(new) - old for place in self.stopped]

    def add(self, role: str, content: str, stopped: bool = False) -> None:
        """One more message."""
        if stopped:
            self.stopped.append(len(self.messages))
        self.messages.append({"role": role, "content": content})

    def reset(self) -> None:
        """Forgets everything but the system message."""
        del self.messages[self.system is not None :]
        self.stopped.clear()

    def save(self, path: Path) -> None:
        """Writes {"messages": [...]}, as in the body of OpenAI's requests, and the places of stopped answers. Never over
        a file that is not this conversation's own."""
        value: dict[str, Any] = {"messages": self.messages}
        if self.stopped:
            value["stopped"] = self.stopped
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
        own = self.path is not None and path.resolve() == self.path.resolve()
        try:
            with path.open("w" if own else "x", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except FileExistsError:
            raise QwenValueError(f"{path} exists already; give another name, or remove it first") from None
        self.path = path

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """Reads what save() wrote, or a bare list of messages. Raises OSError and QwenFileFormatError."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise QwenFileFormatError(f"{path}: {error}") from None
        listed = value.get("messages") if isinstance(value, dict) else value
        if not isinstance(listed, list):
            raise QwenFileFormatError(f"{path}: a conversation is a list of messages, or an object with 'messages'")
        messages = [_message(message, f"{path}: message {place}") for place, message in enumerate(listed)]
        stopped = value.get("stopped", []) if isinstance(value, dict) else []
        return cls(messages, [place for place in stopped if place in range(len(messages))], path)


def _message(message: Any, where: str) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise QwenFileFormatError(f"{where}: a message is {{'role': ..., 'content': ...}}, both texts")
    return {"role": role, "content": content}
