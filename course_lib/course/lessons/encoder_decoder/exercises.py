"""The exercises of the lesson on encoder and decoder."""

import math
import operator

import torch
from torch.nn.functional import pad

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import random
from course_lib.world.words import NOUNS

ANIMALS_HERE = ("tiger", "lion", "giraffe", "otter")
PLACES_HERE = ("nest", "castle", "cave", "tent")
REASONS_HERE = {"thirsty": "animal", "dry": "place", "dusty": "place"}


def check_counterexample(answer):
    if not isinstance(answer, tuple | list) or [type(word) for word in answer] != [str] * 3:
        raise Mistake('give three words, such as ("giraffe", "nest", "thirsty")')
    animal, place, reason = answer
    here = {"animal": ANIMALS_HERE, "place": PLACES_HERE, "reason": REASONS_HERE}
    for (kind, words), word in zip(here.items(), answer, strict=True):
        if word not in words:
            raise Mistake(f"the {kind} {word!r} isn't among {', '.join(words)}")
    if REASONS_HERE[reason] == "animal":
        raise Mistake(f"a place isn't {reason}, so *it* is the {animal}, and the rule holds here")
    if NOUNS[animal].gender == NOUNS[place].gender:
        raise Mistake(
            f"*it* is the {place}, but {NOUNS[animal].french} and "
            f"{NOUNS[place].french} have the same gender: the rule is right by luck"
        )


def cross_inputs(read, width=3):
    """Four words written, and the given number of words read; the width of a query."""
    return random((4, 5), (read, 5), (5, width), (5, width), (5, 2))


def cross_attention(x, memory, W_query, W_key, W_value):
    q, k, v = x @ W_query, memory @ W_key, memory @ W_value
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v


def cross_with(attend):
    """Cross-attention in which `attend(scores, values)` is all that comes after the scores."""

    def cross(x, memory, W_q, W_k, W_v):
        return attend(x @ W_q @ (memory @ W_k).T / W_q.shape[1] ** 0.5, memory @ W_v)

    return cross


def divided(by):
    """Cross-attention whose scores are divided by something else, a function of a query's width."""
    return lambda x, memory, W_q, W_k, W_v: (
        (x @ W_q @ (memory @ W_k).T / by(W_q.shape[1])).softmax(dim=-1) @ memory @ W_v
    )


def cross_from(sources):
    """Attention whose queries, keys and values are made from the three `sources(x, memory)`."""

    def cross(x, memory, *matrices):
        q, k, v = (source @ W for source, W in zip(sources(x, memory), matrices, strict=True))
        return (q @ k.T / q.shape[1] ** 0.5).softmax(dim=-1) @ v

    return cross


def decoder_input(targets, start):
    first = torch.full((len(targets), 1), start)
    return torch.cat([first, targets[:, :-1]], dim=1)


# The words that may follow a text, each with its probability; <end> alone where none are given.
TREE = {  # the one in the notebook
    "": {"la": 0.6, "le": 0.4},
    "la": {"girafe": 0.35, "poule": 0.33, "vache": 0.32},
    "le": {"tigre": 0.9, "lion": 0.1},
    "le tigre": {"<end>": 0.95, "rit": 0.05},
}
# Here it is best to write nothing at all.
SHORT = {"": {"<end>": 0.4, "oui": 0.38, "si": 0.22}, "oui": {"<end>": 0.9, "non": 0.1}}
# Here one text has ended before the likeliest one has.
LATE = {"": {"bon": 1.0}, "bon": {"oui": 0.6, "<end>": 0.4}, "bon oui": {"oui": 0.98, "<end>": 0.02}}
# Here the best text (b d, 0.24) begins with what a beam of 2 lets fall.
FORGOTTEN = {
    "": {"a": 0.6, "b": 0.4}, "b": {"d": 0.6, "<end>": 0.4}, "a": {"c": 0.5, "d": 0.45, "<end>": 0.05},
    "a c": {"c": 0.4, "d": 0.3, "<end>": 0.3}, "a d": {"c": 0.4, "d": 0.3, "<end>": 0.3},
}  # fmt: skip
# Found by trying many: only with these two do all wrong functions below differ from one another.
DEEP = {
    "": {"a": 0.4, "b": 0.35, "<end>": 0.25}, "a": {"c": 0.4, "d": 0.45, "<end>": 0.15},
    "a d": {"e": 0.35, "<end>": 0.65}, "b": {"c": 0.15, "d": 0.6, "<end>": 0.25},
    "b c": {"e": 0.35, "<end>": 0.65}, "b d": {"e": 0.75, "<end>": 0.25},
}  # fmt: skip
NARROW = {
    "": {"a": 0.05, "b": 0.65, "<end>": 0.3},
    "b": {"c": 0.3, "<end>": 0.7}, "b c": {"e": 0.05, "<end>": 0.95},
}  # fmt: skip


def beam_case(tree, width, name=""):
    def search(answer, width):
        asked = []

        def next_words(words):
            asked.append(words)
            if len(asked) > 1000:
                raise Mistake("next_words is asked without end: do the beginnings grow in each round?")
            if "<end>" in words:
                raise Mistake(
                    f"next_words was asked what follows {words!r}; a text with <end> isn't lengthened"
                )
            offered = tree.get(" ".join(words[:-1]), ())
            if not isinstance(words, list | tuple) or words and words[-1] not in offered:
                raise Mistake(f"next_words takes the list of all words so far, and was given {words!r}")
            return dict(tree.get(" ".join(words), {"<end>": 1.0}))

        return answer(next_words, width)

    called = f"with {name or f'tree = {tree}'}, beam_search(next_words, {width})"
    return Case(width, name=called, probe=search)


def beam_search(next_words, width):
    beams = [([], 1.0)]
    while not all(words[-1:] == ["<end>"] for words, _ in beams):
        longer = []
        for words, chance in beams:
            if words[-1:] == ["<end>"]:
                longer.append((words, chance))
            else:
                longer += [(words + [word], chance * p) for word, p in next_words(words).items()]
        beams = sorted(longer, key=lambda beam: beam[1], reverse=True)[:width]
    return beams[0][0][:-1]


def ended(beam):
    return beam[0][-1:] == ["<end>"]


def lengthened(beams, next_words, join=operator.mul, rank=operator.itemgetter(1)):
    """The beams that have ended, and the others with each of their next words, the best first."""
    longer = []
    for w, c in beams:
        longer += [(w, c)] if ended((w, c)) else [(w + [x], join(c, p)) for x, p in next_words(w).items()]
    return sorted(longer, key=rank, reverse=True)


def beam_with(join=operator.mul, rank=operator.itemgetter(1), stop=all):
    """A beam search with other chances, another order or another end."""

    def beam(next_words, width):
        beams = [([], 1.0)]
        while not stop(map(ended, beams)):
            beams = lengthened(beams, next_words, join, rank)[:width]
        return beams[0][0][:-1]

    return beam


def beam_without_the_ended(kept):
    """The ended ones fall out, before or after the `width` best are chosen."""

    def beam(next_words, width):
        beams = [([], 1.0)]
        while alive := [beam for beam in beams if not ended(beam)]:
            beams = lengthened(alive[:width], next_words)[: kept or width]
        return beams[0][0][:-1]

    return beam


def beam_that_puts_the_ended_aside(next_words, width):
    longer, done = lengthened([([], 1.0)], next_words), []
    while longer:
        done += [beam for beam in longer if ended(beam)]
        longer = lengthened([beam for beam in longer if not ended(beam)][:width], next_words)
    return max(done, key=operator.itemgetter(1))[0][:-1]


def beam_that_stops_at(ends):
    """A beam search that stops when so many texts have ended."""

    def beam(next_words, width):
        beams, done = [([], 1.0)], []
        while beams and len(done) < (ends or width):
            beams = lengthened(beams, next_words)[:width]
            done += [beam for beam in beams if ended(beam)]
            beams = [beam for beam in beams if not ended(beam)]
        return max(done, key=operator.itemgetter(1))[0][:-1]

    return beam


def each_first_word_alone(kept):
    """Each of the `width` best first words is continued as if there were no others."""

    def beam(next_words, width):
        beams = lengthened([([], 1.0)], next_words)[:width]
        while not all(map(ended, beams)):
            beams = [new for beam in beams for new in lengthened([beam], next_words)[: kept or width]]
        return max(beams, key=operator.itemgetter(1))[0][:-1]

    return beam


ENDED_FALL_OUT = "you let the ended ones fall out; one that has ended stays among the best, as it is"
STOPS_EARLY = "you stop as soon as one has ended; another that is kept may be likelier, and still go on"
MORE_THAN_WIDTH = "you keep more than `width`: lengthen all, then keep the best `width` of them together"
BY_LENGTH = "you divide by the length; here the whole text's probability counts"


EXERCISES = (
    Exercise(
        id="refute-a-rule",
        solution=("tiger", "cave", "dusty"),
        check=check_counterexample,
        wrong={
            ("giraffe", "nest", "thirsty"): "a place isn't thirsty",
            ("tiger", "castle", "dry"): "right by luck",
            ("tiger", "cave", "tall"): "the reason 'tall' isn't among thirsty",
            ("cave", "tiger", "dusty"): "the animal 'cave' isn't among",
            "tiger cave dusty": "give three words",
        },
    ),
    Exercise(
        id="cross-attention",
        solution=cross_attention,
        cases=(Case(*cross_inputs(7)), Case(*cross_inputs(4)), Case(*cross_inputs(4, width=6))),
        wrong={
            cross_from(lambda x, memory: (x, x, x)): "that is self-attention: `memory` plays no part in it",
            cross_from(lambda x, memory: (memory, x, x)): "x and memory have changed places: x should ask",
            cross_from(lambda x, memory: (x, memory, x)): "the values, too, should come from memory, not x",
            cross_from(lambda x, memory: (x, x, memory)): "the keys, too, should come from memory, not x",
            cross_with(
                lambda scores, v: (scores - 1e9 * torch.ones_like(scores).triu(1)).softmax(dim=-1) @ v
            ): "take the causal mask away: the other text is all there already, and may be seen",
            divided(lambda d: 1): "the scores aren't divided by the square root of the width of a query",
            divided(lambda d: d): "you divided by the width of a query; it is the square root of that width",
            divided(lambda d: 5**0.5): "you divided by the root of x's width; use a query's, q.shape[-1]",
            divided(lambda d: 3**0.5): "√3 is right for queries of three numbers; use q.shape[-1]",
            cross_with(lambda scores, v: scores.softmax(dim=0) @ v): "take the softmax over each row: dim=-1",
            cross_with(lambda scores, v: scores @ v): "the scores aren't weights yet: a softmax is missing",
            cross_with(lambda scores, v: scores.softmax(dim=-1)): "multiply these weights by the values",
            lambda x, memory, W_q, W_k, W_v: cross_attention(x, memory, W_q.T, W_k.T, W_v.T): (
                "the matrices fit as they are: `W_query` is (d, k), so `x @ W_query`, without .T"
            ),
        },
    ),
    Exercise(
        id="decoder-input",
        solution=decoder_input,
        cases=(Case(torch.tensor([[7, 8, 9, 2], [5, 6, 2, 0]]), 1), Case(torch.tensor([[4]]), 3)),
        wrong={
            lambda targets, start: targets: "the decoder still reads the very word that it is to write there",
            lambda targets, start: pad(targets[:, 1:], (0, 1), value=start): (
                "that is shifted the other way: the decoder reads the word after the one that it is to write"
            ),
            lambda targets, start: targets.roll(1, dims=1): "each row begins with its last word: use `start`",
            lambda targets, start: pad(targets, (1, 0), value=start): "cut off the last word: it isn't read",
            lambda targets, start: pad(targets[:, 1:], (1, 0), value=start): (
                "only the first place has changed; all the others have to move on by one"
            ),
            lambda targets, start: targets[:, :-1]: "the start mark before the first word is missing",
            lambda targets, start: decoder_input(targets, 1): "your start mark is always 1: use `start`",
            lambda targets, start: decoder_input(targets, start).float(): "give whole numbers, not floats",
            lambda targets, start: decoder_input(targets.T, start).T: (
                "you moved whole sentences down by one; move the words of each to the right (dim=1)"
            ),
        },
    ),
    Exercise(
        id="beam-search",
        solution=beam_search,
        cases=(
            beam_case(TREE, 2, "the tree above"),
            beam_case(TREE, 1, "the tree above"),
            beam_case(SHORT, 2),
            beam_case(LATE, 2),
            beam_case(FORGOTTEN, 2),
            beam_case(DEEP, 2),
            beam_case(NARROW, 2),
        ),
        wrong={
            lambda next_words, width: beam_search(next_words, 1): (
                "that is greedy, whatever the width: a beam of 2 finds a likelier text than la girafe (0.21)"
            ),
            lambda next_words, width: [*beam_search(next_words, width), "<end>"]: (
                "leave the mark <end> out of the words that you return"
            ),
            beam_without_the_ended(kept=1000): ENDED_FALL_OUT,
            beam_without_the_ended(kept=0): ENDED_FALL_OUT,
            beam_that_puts_the_ended_aside: "the ended ones, too, take up places among the `width` best",
            beam_that_stops_at(1): STOPS_EARLY,
            beam_with(stop=any): STOPS_EARLY,
            beam_that_stops_at(0): "you stop once `width` have ended; one that goes on may be likelier",
            lambda next_words, width: beam_search(next_words, 1000): MORE_THAN_WIDTH,
            each_first_word_alone(kept=0): MORE_THAN_WIDTH,
            each_first_word_alone(kept=1): "lengthen each by every word; then keep the best `width` of all",
            beam_with(operator.add): "multiply the probabilities of a text's words; you add them up",
            beam_with(lambda chance, p: p): "only the last word's probability counts; multiply them all",
            beam_with(min): "a text's probability is the product of its words' probabilities, not the least",
            beam_with(rank=lambda beam: beam[1] / max(1, len(beam[0]))): BY_LENGTH,
            beam_with(rank=lambda beam: beam[1] ** (1 / max(1, len(beam[0])))): BY_LENGTH,
            beam_with(rank=lambda beam: -beam[1]): "you keep the least likely: sort them with reverse=True",
        },
    ),
)
