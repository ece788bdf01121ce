"""Chats as the model was trained on them: messages through the model's own template."""

from __future__ import annotations

from aprgraph.runtime.chat.process import Limits
from aprgraph.runtime.chat.render import TEMPLATE_KEY, Message, chat_messages, render_chat

__all__ = ["TEMPLATE_KEY", "Limits", "Message", "chat_messages", "render_chat"]
