"""The exercises of the lesson on encoder and decoder."""

import math

import torch

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.world.words import NOUNS

ANIMALS_HERE = ("tiger", "lion", "giraffe", "otter")
PLACES_HERE = ("nest", "castle", "cave", "tent")
REASONS_HERE = {"thirsty": "animal", "dry": "place", "dusty": "place"}


def check_counterexample(answer):
    if not isinstance(answer, tuple | list) or [type(word) for word in answer] != [str] * 3:
        raise Mistake('give three words, such as ("giraffe", "nest", "thirsty")')
    animal, place, reason = answer
    for word, words in ((animal, ANIMALS_HERE), (place, PLACES_HERE), (reason, REASONS_HERE)):
        if word not in words:
            raise Mistake(f"{word!r} isn't among {', '.join(words)}")
    if REASONS_HERE[reason] == "animal":
        raise Mistake(f"a place isn't {reason}, so *it* is the {animal}, and the rule holds here")
    if NOUNS[animal].gender == NOUNS[place].gender:
        raise Mistake(
            f"*it* is the {place}, but {NOUNS[animal].french} and "
            f"{NOUNS[place].french} have the same gender: the rule is right by luck"
        )


def cross_inputs(read):
    """Four words written, and the given number of words read."""
    generator = torch.Generator().manual_seed(6)
    shapes = ((4, 5), (read, 5), (5, 3), (5, 3), (5, 2))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def cross_attention(x, memory, W_query, W_key, W_value):
    q, k, v = x @ W_query, memory @ W_key, memory @ W_value
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v


def cross_with(attend):
    """Cross-attention in which `attend(scores, values)` is all that comes after the scores."""
    return lambda x, memory, W_q, W_k, W_v: attend(x @ W_q @ (memory @ W_k).T / 3**0.5, memory @ W_v)


def decoder_input(targets, start):
    first = torch.full((len(targets), 1), start)
    return torch.cat([first, targets[:, :-1]], dim=1)


# The words that may follow a text, each with its probability; <end> where none are given.
TREE = {
    "": {"la": 0.6, "le": 0.4},
    "la": {"girafe": 0.35, "poule": 0.33, "vache": 0.32},
    "le": {"tigre": 0.9, "lion": 0.1},
    "le tigre": {"<end>": 0.95, "rit": 0.05},
}
# Here it is best to write nothing at all.
SHORT = {"": {"<end>": 0.4, "oui": 0.38, "si": 0.22}, "oui": {"<end>": 0.9, "non": 0.1}}
# Here one text has ended before the likeliest one has.
LATE = {"": {"bon": 1.0}, "bon": {"oui": 0.6, "<end>": 0.4}, "bon oui": {"oui": 1.0}}
# Here the best text (b d, 0.24) begins with what a beam of 2 lets fall.
FORGOTTEN = {
    "": {"a": 0.6, "b": 0.4},
    "a": {"c": 0.5, "d": 0.45, "<end>": 0.05},
    "b": {"d": 0.6, "<end>": 0.4},
    "a c": {"c": 0.4, "d": 0.3, "<end>": 0.3},
    "a d": {"c": 0.4, "d": 0.3, "<end>": 0.3},
}


def beam_case(tree, width, name):
    def next_words(words):
        if "<end>" in words:
            raise Mistake(f"next_words was asked what follows {words!r}; a text with <end> isn't lengthened")
        offered = tree.get(" ".join(words[:-1]), ())
        if not isinstance(words, list | tuple) or words and words[-1] not in offered:
            raise Mistake(f"next_words takes the list of all words so far, and was given {words!r}")
        return dict(tree.get(" ".join(words), {"<end>": 1.0}))

    return Case(next_words, width, name=name)


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


def lengthened(beams, next_words):
    """The beams with each of their next words, the likeliest first."""
    longer = [(w + [x], chance * p) for w, chance in beams for x, p in next_words(w).items()]
    return sorted(longer, key=lambda beam: beam[1], reverse=True)


def beam_that_forgets_the_ended(next_words, width):
    longer = lengthened([([], 1.0)], next_words)
    while alive := [beam for beam in longer if beam[0][-1] != "<end>"]:
        longer = lengthened(alive[:width], next_words)
    return longer[0][0][:-1]


def beam_that_puts_the_ended_aside(next_words, width):
    longer, ended = lengthened([([], 1.0)], next_words), []
    while longer:
        ended += [beam for beam in longer if beam[0][-1] == "<end>"]
        longer = lengthened([beam for beam in longer if beam not in ended][:width], next_words)
    return max(ended, key=lambda beam: beam[1])[0][:-1]


def beam_that_stops_at_the_first_end(next_words, width):
    beams = lengthened([([], 1.0)], next_words)[:width]
    while not (ended := [words for words, _ in beams if words[-1] == "<end>"]):
        beams = lengthened(beams, next_words)[:width]
    return ended[0][:-1]


EXERCISES = (
    Exercise(
        id="refute-a-rule",
        hints=(
            "The reason decides what *it* is. Only an animal is thirsty; only a place is dry or dusty.",
            "Tiger, lion, nest and castle are masculine (le tigre), giraffe, otter, cave and tent feminine.",
        ),
        learned="a translator has to know what *it* is before it can write il or elle.",
        solution=("tiger", "cave", "dusty"),
        why=(
            "The cave is dusty, so *it* is the cave: la grotte, elle. "
            "The rule says il, for le tigre. Other answers are as good."
        ),
        check=check_counterexample,
        wrong={
            ("giraffe", "nest", "thirsty"): "a place isn't thirsty",
            ("tiger", "castle", "dry"): "right by luck",
            ("tiger", "cave", "tall"): "isn't among thirsty",
            "tiger cave dusty": "give three words",
        },
    ),
    Exercise(
        id="cross-attention",
        hints=(
            "It is self-attention's formula without mask. Only one thing is new: who asks and who answers.",
            "Queries from x; keys and values from memory. The result has as many rows as x.",
            "q, k, v = x @ W_query, memory @ W_key, memory @ W_value",
        ),
        learned="that is all there is between encoder and decoder.",
        solution=cross_attention,
        cases=(Case(*cross_inputs(7)), Case(*cross_inputs(4))),
        wrong={
            lambda x, memory, *matrices: cross_attention(x, x, *matrices): (
                "that is self-attention: the text that is read, `memory`, plays no part"
            ),
            lambda x, memory, *matrices: cross_attention(memory, x, *matrices): (
                "you have one row for each word read; those who ask are the words written, `x`"
            ),
            lambda x, memory, W_q, W_k, W_v: (
                (x @ W_q @ (memory @ W_k).T / 3**0.5).softmax(dim=-1) @ (x @ W_v)
            ): "the values come from `x`; keys and values both come from what was read, `memory`",
            cross_with(
                lambda scores, v: (scores - 1e9 * torch.ones_like(scores).triu(1)).softmax(dim=-1) @ v
            ): ("there is a causal mask; all of the other text is there already, and may be seen"),
            cross_with(lambda scores, v: (scores * 3**0.5).softmax(dim=-1) @ v): (
                "the scores aren't divided by the square root of the width of a query"
            ),
            cross_with(lambda scores, v: (scores / 3**0.5).softmax(dim=-1) @ v): (
                "you divided by the width of a query; it is the square root of that width"
            ),
            cross_with(lambda scores, v: (scores * (3 / 5) ** 0.5).softmax(dim=-1) @ v): (
                "you divided by the root of the width of x; what counts is the width of a query, q.shape[-1]"
            ),
            cross_with(lambda scores, v: scores.softmax(dim=0) @ v): (
                "each column of your weights adds up to 1; each row should, one for each word written"
            ),
            cross_with(lambda scores, v: scores @ v): (
                "the scores weren't turned into weights: a softmax is missing"
            ),
            cross_with(lambda scores, v: scores.softmax(dim=-1)): (
                "these are the weights; the result is their product with the values"
            ),
        },
    ),
    Exercise(
        id="decoder-input",
        hints=(
            "What is the decoder asked to write at the first place, and what has it read there?",
            "At each place it should have read the word that comes before; at the first, the start mark.",
            "torch.full((len(targets), 1), start) is a column of marks; targets[:, :-1] leaves the last out.",
        ),
        learned="a loss that is too good to be true usually is: look for the answer among the inputs.",
        solution=decoder_input,
        cases=(Case(torch.tensor([[7, 8, 9, 2], [5, 6, 2, 0]]), 1), Case(torch.tensor([[4]]), 3)),
        wrong={
            lambda targets, start: targets: (
                "the decoder still reads, at each place, the very word that it is to write there"
            ),
            lambda targets, start: torch.cat([targets[:, 1:], decoder_input(targets, start)[:, :1]], dim=1): (
                "that is shifted the other way: it reads the word after the one that it is to write"
            ),
            lambda targets, start: targets.roll(1, dims=1): (
                "the first thing read is what stood last in its row; it should be the start mark"
            ),
            lambda targets, start: torch.cat([decoder_input(targets, start), targets[:, -1:]], dim=1): (
                "there is one column too many: the last word is written and never read"
            ),
            lambda targets, start: torch.cat([decoder_input(targets, start)[:, :1], targets[:, 1:]], dim=1): (
                "only the first place has changed; all the others have to move on by one"
            ),
            lambda targets, start: targets[:, :-1]: (
                "the last word is gone, and nothing stands before the first: the start mark is missing"
            ),
            lambda targets, start: decoder_input(targets, 1): (
                "your start mark is 1, whatever number was handed in: use `start`"
            ),
            lambda targets, start: decoder_input(targets, start).float(): (
                "a decoder reads whole numbers, the words' places in its table; yours have become fractions"
            ),
        },
    ),
    Exercise(
        id="beam-search",
        hints=(
            "Keep a list of (words, chance). Lengthen each by each possible next word; multiply the chances.",
            "Of all these, the ended ones among them, keep the best `width`.",
            "One that ends in <end> isn't lengthened, but stays in the running with the chance it has.",
            "Stop when all of those kept have ended; the first of them is the answer, without its <end>.",
        ),
        learned="the best first word doesn't always begin the best sentence; the paper keeps four.",
        solution=beam_search,
        cases=(
            beam_case(TREE, 2, "the text found with a beam of 2"),
            beam_case(TREE, 1, "the text found with a beam of 1 (greedy)"),
            beam_case(SHORT, 2, "the text where ending at once has 0.4, and every other text less"),
            beam_case(LATE, 2, "the text where the likeliest is the longest"),
            beam_case(FORGOTTEN, 2, "the text found among a, b, c and d"),
        ),
        wrong={
            lambda next_words, width: beam_search(next_words, 1): (
                "that is what greedy writes, 0.6 · 0.35 = 0.21; with a beam of 2 there is a better one"
            ),
            lambda next_words, width: [*beam_search(next_words, width), "<end>"]: (
                "leave the mark <end> out of the words that you return"
            ),
            beam_that_forgets_the_ended: (
                "you let the ended ones fall out; one that has ended stays among the best, as it is"
            ),
            beam_that_puts_the_ended_aside: (
                "you put the ended ones aside; they take up places among the `width` best as all others do"
            ),
            beam_that_stops_at_the_first_end: (
                "you stop as soon as one has ended; another that is kept may be likelier, and still go on"
            ),
            lambda next_words, width: beam_search(next_words, 1000 if width > 1 else 1): (
                "you keep more than `width` in all: lengthen all, then keep the best `width` of them together"
            ),
            lambda next_words, width: beam_search(
                lambda words: {word: math.exp(p) for word, p in next_words(words).items()}, width
            ): "you add up the probabilities; that of a text is the product of those of its words",
        },
    ),
)
