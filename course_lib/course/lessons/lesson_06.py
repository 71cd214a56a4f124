"""The exercises and the quiz of 06, encoder and decoder."""

import math

import torch

from course_lib.course.checking import Mistake, call, close, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.world.words import NOUNS

TITLE = "Encoder and decoder"

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


def _cross_inputs():
    generator = torch.Generator().manual_seed(6)
    shapes = ((4, 5), (7, 5), (5, 3), (5, 3), (5, 2))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def check_cross(answer):
    x, memory, W_query, W_key, W_value = _cross_inputs()
    got = call(answer, x, memory, W_query, W_key, W_value)
    right = solve_cross_attention(x, memory, W_query, W_key, W_value)
    if same(got, solve_cross_attention(x, x, W_query, W_key, W_value)):
        raise Mistake("that is self-attention: the text that is read, `memory`, plays no part")
    if same(got, solve_cross_attention(memory, x, W_query, W_key, W_value)):
        raise Mistake("you have one row for each word read; those who ask are the words written, `x`")
    if same(got, cross_causal(x, memory, W_query, W_key, W_value)):
        raise Mistake("there is a causal mask; all of the other text is there already, and may be seen")
    if same(got, cross_unscaled(x, memory, W_query, W_key, W_value)):
        raise Mistake("the scores aren't divided by the square root of the width of a query")
    if same(got, cross_over_writers(x, memory, W_query, W_key, W_value)):
        raise Mistake("each column of your weights adds up to 1; each row should, one for each word written")
    if same(got, cross_without_softmax(x, memory, W_query, W_key, W_value)):
        raise Mistake("the scores weren't turned into weights: a softmax is missing")
    close(got, right, "the output")


def solve_cross_attention(x, memory, W_query, W_key, W_value):
    q, k, v = x @ W_query, memory @ W_key, memory @ W_value
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v


def cross_self(x, memory, W_query, W_key, W_value):
    return solve_cross_attention(x, x, W_query, W_key, W_value)


def cross_backwards(x, memory, W_query, W_key, W_value):
    return solve_cross_attention(memory, x, W_query, W_key, W_value)


def cross_causal(x, memory, W_query, W_key, W_value):
    q, k, v = x @ W_query, memory @ W_key, memory @ W_value
    scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(
        torch.ones(len(q), len(k)).triu(1).bool(), -math.inf
    )
    return scores.softmax(dim=-1) @ v


def cross_unscaled(x, memory, W_query, W_key, W_value):
    return (x @ W_query @ (memory @ W_key).T).softmax(dim=-1) @ (memory @ W_value)


def cross_over_writers(x, memory, W_query, W_key, W_value):
    q, k, v = x @ W_query, memory @ W_key, memory @ W_value
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=0) @ v


def cross_without_softmax(x, memory, W_query, W_key, W_value):
    q, k, v = x @ W_query, memory @ W_key, memory @ W_value
    return q @ k.T / math.sqrt(q.shape[-1]) @ v


def cross_two_sources(x, memory, W_query, W_key, W_value):
    n = len(x)
    q, k, v = x @ W_query, memory[:n] @ W_key, x @ W_value
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def check_input(answer):
    targets = torch.tensor([[7, 8, 9, 2], [5, 6, 2, 0]])
    got = call(answer, targets, 1)
    if torch.is_tensor(got) and got.is_floating_point():
        raise Mistake(
            "a decoder reads whole numbers, the words' places in its table; yours have become fractions"
        )
    if same(got, targets):
        raise Mistake("the decoder still reads, at each place, the very word that it is to write there")
    if same(got, input_of_later_words(targets, 1)):
        raise Mistake("that is shifted the other way: it reads the word after the one that it is to write")
    if same(got, input_rolled(targets, 1)):
        raise Mistake("the first thing read is what stood last in its row; it should be the start mark")
    if same(got, input_lengthened(targets, 1)):
        raise Mistake("there is one column too many: the last word is written and never read")
    if same(got, input_with_one_place_changed(targets, 1)):
        raise Mistake("only the first place has changed; all the others have to move on by one")
    equal(torch.as_tensor(got).tolist(), [[1, 7, 8, 9], [1, 5, 6, 2]], "the decoder's input")
    equal(
        torch.as_tensor(call(answer, torch.tensor([[4]]), 3)).tolist(),
        [[3]],
        "the input for the one word 4, with start mark 3,",
    )


def solve_decoder_input(targets, start):
    first = torch.full((len(targets), 1), start)
    return torch.cat([first, targets[:, :-1]], dim=1)


def input_unshifted(targets, start):
    return targets.clone()


def input_of_later_words(targets, start):
    return torch.cat([targets[:, 1:], torch.full((len(targets), 1), start)], dim=1)


def input_with_one_place_changed(targets, start):
    return torch.cat([torch.full((len(targets), 1), start), targets[:, 1:]], dim=1)


def input_of_fractions(targets, start):
    return solve_decoder_input(targets, start).float()


def input_rolled(targets, start):
    return targets.roll(1, dims=1)


def input_lengthened(targets, start):
    return torch.cat([torch.full((len(targets), 1), start), targets], dim=1)


# What may be written here: a tree of next words, each with its probability.
TREE = {
    (): {"la": 0.6, "le": 0.4},
    ("la",): {"girafe": 0.35, "poule": 0.33, "vache": 0.32},
    ("le",): {"tigre": 0.9, "lion": 0.1},
    ("la", "girafe"): {"<end>": 1.0},
    ("la", "poule"): {"<end>": 1.0},
    ("la", "vache"): {"<end>": 1.0},
    ("le", "tigre"): {"<end>": 0.95, "rit": 0.05},
    ("le", "tigre", "rit"): {"<end>": 1.0},
    ("le", "lion"): {"<end>": 1.0},
}
# Here it is best to write nothing at all.
SHORT = {
    (): {"<end>": 0.5, "oui": 0.5},
    ("oui",): {"oui": 0.6, "<end>": 0.4},
    ("oui", "oui"): {"<end>": 1.0},
}
# Here one text has ended before the likeliest one has.
LATE = {(): {"oui": 0.6, "<end>": 0.4}, ("oui",): {"oui": 1.0}, ("oui", "oui"): {"<end>": 1.0}}
# Here the best text (b d, 0.24) begins with what a beam of 2 lets fall.
FORGOTTEN = {
    (): {"a": 0.6, "b": 0.4},
    ("a",): {"c": 0.5, "d": 0.45, "<end>": 0.05},
    ("b",): {"d": 0.6, "<end>": 0.4},
    ("a", "c"): {"c": 0.4, "d": 0.3, "<end>": 0.3},
    ("a", "d"): {"c": 0.4, "d": 0.3, "<end>": 0.3},
    ("a", "c", "c"): {"<end>": 1.0},
    ("a", "c", "d"): {"<end>": 1.0},
    ("a", "d", "c"): {"<end>": 1.0},
    ("a", "d", "d"): {"<end>": 1.0},
    ("b", "d"): {"<end>": 1.0},
}


def next_words(written):
    return TREE[tuple(written)]


def next_words_short(written):
    return SHORT[tuple(written)]


def next_words_late(written):
    return LATE[tuple(written)]


def next_words_forgotten(written):
    return FORGOTTEN[tuple(written)]


def check_beam(answer):
    got = call(answer, next_words, 2)
    if got == ["le", "tigre", "<end>"]:
        raise Mistake("leave the mark <end> out of the words that you return")
    if got == ["la", "girafe"]:
        raise Mistake("that is what greedy writes, 0.6 · 0.35 = 0.21; with a beam of 2 there is a better one")
    if got == ["le", "tigre", "rit"]:
        raise Mistake("you let the ended ones fall out; one that has ended stays among the best, as it is")
    equal(got, ["le", "tigre"], "the text found with a beam of 2")
    equal(call(answer, next_words, 1), ["la", "girafe"], "the text found with a beam of 1, which is greedy,")
    equal(
        call(answer, next_words_short, 2),
        [],
        "the text where ending at once has 0.5 and nothing else more than 0.3",
    )
    if call(answer, next_words_late, 2) == []:
        raise Mistake(
            "you stop as soon as one has ended; another that is kept may be likelier, and still go on"
        )
    if call(answer, next_words_forgotten, 2) == ["b", "d"]:
        raise Mistake(
            "you keep more than `width` in all: lengthen all, then keep the best `width` of them together"
        )
    equal(call(answer, next_words_late, 2), ["oui", "oui"], "the text where the likeliest is the longest")
    equal(call(answer, next_words_forgotten, 2), ["a", "c", "c"], "the text found among a, b, c and d")


def solve_beam_search(next_words, width):
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


def beam_greedy(next_words, width):
    return solve_beam_search(next_words, 1)


def beam_with_end(next_words, width):
    return [*solve_beam_search(next_words, width), "<end>"]


def beam_that_forgets_the_ended(next_words, width):
    beams = [([], 1.0)]
    while True:
        longer = [(w + [x], c * p) for w, c in beams for x, p in next_words(w).items()]
        alive = [beam for beam in longer if beam[0][-1] != "<end>"]
        if not alive:
            return max(longer, key=lambda beam: beam[1])[0][:-1]
        beams = sorted(alive, key=lambda beam: beam[1], reverse=True)[:width]


def beam_that_stops_at_the_first_end(next_words, width):
    beams = [([], 1.0)]
    while True:
        longer = [(w + [x], c * p) for w, c in beams for x, p in next_words(w).items()]
        beams = sorted(longer, key=lambda beam: beam[1], reverse=True)[:width]
        for words, _ in beams:
            if words[-1] == "<end>":
                return words[:-1]


def beam_that_lets_none_fall(next_words, width):
    return solve_beam_search(next_words, 1000 if width > 1 else 1)


EXERCISES = (
    Exercise(
        id="06-1",
        title="A rule to refute",
        minutes=4,
        level="easy",
        hints=(
            "The reason decides what *it* is. Only an animal is thirsty; only a place is dry or dusty.",
            (
                "Tiger and lion are masculine (le tigre), giraffe and otter "
                "feminine. Nest and castle are masculine, cave and tent feminine."
            ),
        ),
        check=check_counterexample,
        solution=("tiger", "cave", "dusty"),
        wrong=(
            Wrong(("giraffe", "nest", "thirsty"), "a place isn't thirsty"),
            Wrong(("tiger", "castle", "dry"), "right by luck"),
            Wrong(("tiger", "cave", "tall"), "isn't among thirsty"),
            Wrong("tiger cave dusty", "give three words"),
        ),
        learned="a translator has to know what *it* is before it can write il or elle.",
        why=(
            "The cave is dusty, so *it* is the cave: la grotte, elle. "
            "The rule says il, for le tigre. Other answers are as good."
        ),
    ),
    Exercise(
        id="06-2",
        title="Cross-attention",
        minutes=8,
        level="medium",
        hints=(
            (
                "It is attention as in lesson 03, without mask. "
                "Only one thing is new: who asks, and who answers."
            ),
            "Queries from x; keys and values from memory. The result has as many rows as x.",
            "q, k, v = x @ W_query, memory @ W_key, memory @ W_value",
        ),
        check=check_cross,
        solution=solve_cross_attention,
        wrong=(
            Wrong(cross_self, "that is self-attention"),
            Wrong(cross_backwards, "one row for each word read"),
            Wrong(cross_causal, "there is a causal mask"),
            Wrong(cross_unscaled, "aren't divided"),
            Wrong(cross_over_writers, "each column of your weights"),
            Wrong(cross_without_softmax, "a softmax is missing"),
            Wrong(cross_two_sources, "the output[0"),
        ),
        learned="that is all there is between encoder and decoder.",
    ),
    Exercise(
        id="06-3",
        title="Bug hunt: the perfect score",
        minutes=8,
        level="medium",
        hints=(
            "What is the decoder asked to write at the first place, and what has it read there?",
            (
                "At each place it should have read the word before the "
                "one it is to write; at the first place, the start mark."
            ),
            (
                "torch.full((len(targets), 1), start) is a column of "
                "start marks; targets[:, :-1] leaves the last column out."
            ),
        ),
        check=check_input,
        solution=solve_decoder_input,
        wrong=(
            Wrong(input_unshifted, "the very word"),
            Wrong(input_of_later_words, "shifted the other way"),
            Wrong(input_rolled, "what stood last in its row"),
            Wrong(input_lengthened, "one column too many"),
            Wrong(input_with_one_place_changed, "only the first place has changed"),
            Wrong(input_of_fractions, "have become fractions"),
        ),
        learned="a loss that is too good to be true usually is: look for the answer among the inputs.",
    ),
    Exercise(
        id="06-4",
        title="Beam search",
        minutes=15,
        level="hard",
        hints=(
            (
                "Keep a list of (words, chance). Lengthen each by each possible "
                "next word, multiply the chances, keep the best `width`."
            ),
            (
                "One that ends in <end> isn't lengthened any more, "
                "but stays in the running with the chance it has."
            ),
            "Stop when all of those kept have ended; the first of them is the answer, without its <end>.",
        ),
        check=check_beam,
        solution=solve_beam_search,
        wrong=(
            Wrong(beam_greedy, "that is what greedy writes"),
            Wrong(beam_with_end, "leave the mark"),
            Wrong(beam_that_forgets_the_ended, "fall out"),
            Wrong(beam_that_stops_at_the_first_end, "as soon as one has ended"),
            Wrong(beam_that_lets_none_fall, "more than `width` in all"),
            Wrong(1, "wants a function"),
        ),
        learned="the best first word doesn't always begin the best sentence; the paper keeps four.",
    ),
)

QUIZ = (
    Question(
        id="06-q1",
        text="In cross-attention, what comes from the encoder?",
        choices=(
            Choice("The queries", "The one who writes asks: queries come from the decoder."),
            Choice(
                "The keys and the values",
                "What is found, and what it tells, are of the text that was read.",
                right=True,
            ),
            Choice("The mask alone", "A mask hides padding, and carries nothing of what the words mean."),
        ),
    ),
    Question(
        id="06-q2",
        text=(
            "In training, the decoder reads the right French words, not "
            "its own. Why may it then be trained on all places at once?"
        ),
        choices=(
            Choice(
                "Its mask hides from each place the word to be written there and all later ones",
                "With the input shifted by one, and only then: otherwise it reads what it should write.",
                right=True,
            ),
            Choice("The encoder has read the French as well", "The encoder reads English only."),
            Choice(
                "It writes all words at once when it translates, too",
                "It writes one, reads it, and writes the next.",
            ),
        ),
    ),
    Question(
        id="06-q3",
        text=(
            "A thick line goes from *le* to *tiger*, and *le* is "
            "the translation of *the*. What does that tell you?"
        ),
        choices=(
            Choice(
                "The model has made a mistake",
                "Its translation was right; it needed to know the noun's gender.",
            ),
            Choice(
                "Attention is a bad dictionary, so it is meaningless",
                "For nouns and adjectives, in one head, it was nearly a perfect one.",
            ),
            Choice(
                "Attention goes where the needed information is, which need not be the word's translation",
                "le or la depends on the noun, and whether an adjective comes first.",
                right=True,
            ),
        ),
    ),
)
