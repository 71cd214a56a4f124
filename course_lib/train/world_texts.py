"""What the course's own small model reads: stories, and questions about them (`world_model`)."""

import random
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from course_lib.text import Tokenizer
from course_lib.world import ANSWER, END, QUESTION, Story, document, questions_about, stories


def documents(seed: int, split: str, n: int) -> Iterator[str]:
    """Yield n stories of all lengths, every other one followed by questions about it and their answers."""
    rng = random.Random(f"documents {seed}")
    for i, story in enumerate(islice(stories(seed, split), n)):
        yield document(story) if i % 2 == 0 else document_with_questions(story, rng)


def document_with_questions(story: Story, rng: random.Random, max_questions: int = 4) -> str:
    """Return a story and up to max_questions of its questions, with their answers.

    Answers can be inferred from the story, so these texts are more predictable.
    """
    candidates = questions_about(story)
    chosen = rng.sample(candidates, min(max_questions, len(candidates)))
    return story.text + "".join(f"{QUESTION}{each.question}{ANSWER}{each.answer}" for each in chosen) + END


def token_stream(tokenizer: Tokenizer, seed: int, split: str, n: int) -> Tensor:
    """Return the ids of n documents as one sequence, (length,)."""
    texts = documents(seed, split, n)
    return torch.tensor([token for text in texts for token in tokenizer.encode(text, allow_special=True)])
