"""Everyday messages that ask for no concept: what steering does is measured on the replies.

Sets without a message in common, so that what is calibrated on one is judged on another.
"""

from __future__ import annotations

from .subject import Message

CALIBRATION = (
    "How was your day?",
    "Tell me something interesting.",
    "I have nothing to do.",
    "What should I have for dinner?",
    "Can you help me with something?",
    "My brother called me this morning.",
    "What are you thinking about?",
    "It is late and I am still awake.",
)

SETTLING = (
    "Hello there!",
    "What is new?",
    "I am on my way home.",
    "Tell me a fact.",
    "What should I cook tomorrow?",
    "I cannot find my glasses.",
    "My friend has a birthday soon.",
    "What is your favorite thing?",
    "How do I get up early?",
    "Tell me about your family.",
    "I feel a little tired today.",
    "Can you tell me a joke?",
    "What do you think about at night?",
    "My boss is angry with me.",
    "Where should I go on holiday?",
    "I just finished my homework.",
    "What makes you happy?",
    "How can I learn faster?",
    "It is raining again.",
    "What did you do yesterday?",
)

EVALUATION = (
    "How are you?",
    "Good morning!",
    "Tell me about yourself.",
    "I had a long day at work.",
    "What do you like to do?",
    "Can you give me some advice?",
    "Tell me a short story.",
    "What should I do this weekend?",
    "I need a present for a friend.",
    "My neighbor is moving away.",
    "How do I make new friends?",
    "What is on your mind?",
    "What should I wear today?",
    "Where do you live?",
    "I am bored.",
    "What should we talk about?",
    "My sister is visiting next week.",
    "How can I sleep better?",
    "I lost my keys.",
    "Do you have any plans for today?",
)

PRESET_QUESTIONS = (
    "What is your physical form?",
    "Who are you?",
    "What are you made of?",
    "What do you look like?",
    "What is your name?",
    "Where do you come from?",
    "How old are you?",
    "How tall are you?",
    "What do you do all day?",
    "What do you feel?",
    "What do you dream of?",
    "Describe yourself in one sentence.",
)


def said(message: str) -> tuple[Message, ...]:
    """A conversation of one message."""
    return ({"role": "user", "content": message},)
