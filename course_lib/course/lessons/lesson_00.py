"""The exercises and the quiz of 00, start here."""

from course_lib.course.checking import Mistake, call, equal
from course_lib.course.content import Choice, Exercise, Question, Wrong

TITLE = "Start here"


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


def check_write(answer):
    heard = []

    def count_up(text):
        heard.append(text)
        return f" {len(text.split())}"

    got = call(answer, "zero", 3, count_up)
    if got in (" 1 2 3", " 1 1 1"):
        raise Mistake("return the whole text, the beginning included")
    if got == "zero 1 1 1":
        raise Mistake(
            "every guess was made from the first text: give "
            "guess() the text with what has been written so far"
        )
    if got == "zero 1":
        raise Mistake("that is only one token; go on until there are n")
    equal(got, "zero 1 2 3", 'write("zero", 3, guess), with a guess that counts the words,')
    equal(call(answer, "zero", 0, count_up), "zero", "the text with no token more")
    if len(heard) > 3:
        raise Mistake(
            f"guess was asked {len(heard)} times for 3 tokens; each answer is one token, so keep it"
        )
    _check_pieces(answer)


def _check_pieces(answer):
    """A token needn't be a word: here they have no spaces, and are of several lengths."""
    pieces, asked = {1: "bc", 3: "d", 4: "efg", 7: "h", 8: "ij"}, []

    def spell(text):
        asked.append(text)
        if len(asked) > 20:
            raise RuntimeError(
                "guess was asked 20 times for 5 tokens. (Count "
                "tokens, not words: a token needn't have a space)"
            )
        return pieces.get(len(text), "!")

    equal(
        call(answer, "a", 5, spell),
        "abcdefghij",
        'write("a", 5, guess), where the tokens are "bc", "d", "efg", "h" and "ij",',
    )


def write_words(text, n, guess):
    end = len(text.split()) + n
    while len(text.split()) < end:
        text += guess(text)
    return text


def write_characters(text, n, guess):
    end = len(text) + 2 * n
    while len(text) < end:
        text += guess(text)
    return text


def write_three(text, n, guess):
    for _ in range(3 if n else 0):
        text += guess(text)
    return text


def solve_write(text, n, guess):
    for _ in range(n):
        text = text + guess(text)
    return text


def write_from_the_beginning(text, n, guess):
    return text + "".join(guess(text) for _ in range(n))


def write_only_the_new(text, n, guess):
    new = ""
    for _ in range(n):
        new = new + guess(text + new)
    return new


def write_once(text, n, guess):
    return text + guess(text) if n else text


def write_asking_twice(text, n, guess):
    for _ in range(n):
        if guess(text):
            text = text + guess(text)
    return text


EXERCISES = (
    Exercise(
        id="00-1",
        title="Think like the model",
        minutes=2,
        level="easy",
        hints=(
            "It isn't what the poem says. Ask the model.",
            'next_tokens("Roses are red, violets are") lists its five best guesses, the likeliest first.',
        ),
        check=check_violets,
        solution="white",
        wrong=(
            Wrong("blue", "so the poem goes"),
            Wrong("green", "it isn't 'green'"),
            Wrong("sky blue", "one word, please"),
            Wrong(5, "a word is a string"),
        ),
        learned=(
            "it doesn't recite, it weighs what tends to come next; and what it finds likeliest can be wrong."
        ),
        why='next_tokens("Roses are red, violets are") puts white first, blue second.',
    ),
    Exercise(
        id="00-2",
        title="The loop that writes",
        minutes=5,
        level="easy",
        hints=(
            "Do the same thing n times: guess a token, put it at the end of the text.",
            "for _ in range(n): and inside it text = text + guess(text). What do you return?",
        ),
        check=check_write,
        solution=solve_write,
        wrong=(
            Wrong(write_words, "Count tokens, not words"),
            Wrong(write_characters, "and is 'abcdefghij!'"),
            Wrong(write_three, "and is 'abcdefg'"),
            Wrong(write_from_the_beginning, "every guess was made from the first text"),
            Wrong(write_only_the_new, "the beginning included"),
            Wrong(write_once, "that is only one token"),
            Wrong(write_asking_twice, "so keep it"),
        ),
        learned="you have written a text generator, and the loop is the same in the largest of them.",
    ),
)

QUIZ = (
    Question(
        id="00-q1",
        text="What does a language model compute from a text?",
        choices=(
            Choice(
                "The answer to it",
                "An answer appears when tokens are chosen one after another; each step only weighs.",
            ),
            Choice(
                "A probability for every token it knows of being the next one",
                "49,152 probabilities in this model's case, and nothing else.",
                right=True,
            ),
            Choice(
                "The most similar of the texts that it was trained on, and how that text went on",
                "No text is stored or looked up, only 135 million numbers.",
            ),
        ),
    ),
    Question(
        id="00-q2",
        text="The model wrote 'The capital of France is Paris.' What was sent over the network for it?",
        choices=(
            Choice(
                "Nothing; the numbers lie on this computer and the multiplication was done here",
                "Pull the plug and run the cell again.",
                right=True,
            ),
            Choice(
                "The question, to a server of the model's makers",
                "There is no such call in the code. Pull the plug and try.",
            ),
            Choice(
                "The question, to a search engine", "What it knows of Paris is in its 135 million numbers."
            ),
        ),
    ),
    Question(
        id="00-q3",
        text="The model puts 'white' before 'blue' for the violets. What does that show?",
        choices=(
            Choice(
                "The program has a bug",
                "The same code gives the same numbers as other people's programs: lesson 01 and the tests.",
            ),
            Choice("It has never read the poem", "It gives blue second place; some of the poem has stuck."),
            Choice(
                "It gives what seems likely to it, which needn't be true or what you expect",
                "Likely and true often agree, and the difference is worth a course.",
                right=True,
            ),
        ),
    ),
)
