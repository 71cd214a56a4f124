"""The exercises of the lesson on where to start."""

from functools import reduce

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise


def check_violets(answer):
    if not isinstance(answer, str):
        raise Mistake('a word is a string in quotes, such as "yellow"')
    word = answer.strip().lower().strip(".,!")
    if word == "blue":
        raise Mistake(
            "so the poem goes, and the model knows it a little. But it finds another colour likelier: "
            'look at next_tokens("Roses are red, violets are")'
        )
    if len(word.split()) != 1:
        raise Mistake(f"one word, please, not {answer!r}")
    if word != "white":
        raise Mistake(
            f'it isn\'t {word!r}. Run next_tokens("Roses are red, violets are") in a cell of your own'
        )


def write(text, n, guess):
    for _ in range(n):
        text = text + guess(text)
    return text


def number(text):
    return f" {len(text.split())}"


def letters(text):
    return {1: "bc", 3: "d", 4: "efg", 7: "h", 8: "bc"}.get(len(text), "!")


def counted(answer, text, n, next_token):
    asked = []

    def guess(text):
        asked.append(text)
        if len(asked) > 20:
            raise Mistake(f"does it come to an end? guess was asked more than 20 times, and n is {n}")
        return next_token(text)

    guess.__qualname__ = "guess"
    return answer(text, n, guess), len(asked)


def loop(step):
    return lambda text, n, guess: reduce(lambda so_far, _: step(so_far, guess), range(n), text)


def until(text, end, length, guess):
    while length(text) < end:
        text += guess(text)
    return text


def write_after_the_last_token(text, n, guess):
    token = text
    for _ in range(n):
        token = guess(token)
        text += token
    return text


EXERCISES = (
    Exercise(
        id="violets",
        solution="white",
        check=check_violets,
        wrong={
            "blue": "so the poem goes",
            "green": "it isn't 'green'",
            "sky blue": "one word, please",
            5: "a word is a string",
        },
    ),
    Exercise(
        id="write",
        solution=write,
        cases=(
            Case("zero", 3, number, name="write('zero', 3, guess) where guess counts words", probe=counted),
            Case("zero", 0, number, probe=counted),
            Case("a", 5, letters, name="write('a', 5, guess) with tokens bc, d, efg, h, bc", probe=counted),
        ),
        returns=("the text", "the number of guesses"),
        part=True,
        wrong={
            lambda text, n, guess: until(text, len(text.split()) + n, lambda it: len(it.split()), guess): (
                "count tokens, not words or spaces: a token needn't have a space"
            ),
            lambda text, n, guess: until(text, len(text) + 2 * n, len, guess): (
                "count tokens, not characters: a token may be of any length"
            ),
            lambda text, n, guess: write(text, min(n, 1), guess): "only one token; go on until there are n",
            lambda text, n, guess: write(text, 1, guess) if n else None: "the return belongs after the loop",
            lambda text, n, guess: write(text, 1, guess): "one token, whatever n is; repeat that n times",
            lambda text, n, guess: write(text, min(n, 3), guess): "never more than three; there should be n",
            lambda text, n, guess: write(text, n + 1, guess): "that is one token more than n",
            lambda text, n, guess: write(text, n - 1, guess): "that is one token fewer than n",
            lambda text, n, guess: write(text, n, guess)[len(text) :]: "return the beginning of the text too",
            lambda text, n, guess: text + "".join(guess(text) for _ in range(n)): (
                "every guess was made from the first text; give guess the text with what was written so far"
            ),
            lambda text, n, guess: "".join(guess(text) for _ in range(n)): (
                "every guess was made from the first text, which is also missing from what you return"
            ),
            lambda text, n, guess: [text, *(text + guess(text) for _ in range(n))][-1]: (
                "each round began with the first text again; begin with the text that the last one made"
            ),
            lambda text, n, guess: text + write("", n, guess): "give guess the beginning of the text too",
            write_after_the_last_token: "guess was given only the last token; give it the whole text",
            loop(lambda text, guess: guess(text) and text + guess(text)): "ask guess only once for a token",
            loop(lambda text, guess: guess(text) and text): "add each token to the text, and keep the result",
            loop(lambda text, guess: guess(text)): "each token took the text's place; put it at the end",
            loop(lambda text, guess: guess(text) + text): "a token goes at the end of the text",
            loop(lambda text, guess: f"{text} {guess(text)}"): "no space of your own between text and token",
            loop(lambda text, guess: text + guess(text).strip()): "leave the space at a token's beginning",
        },
    ),
)
