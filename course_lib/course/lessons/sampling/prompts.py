"""The prompts of `sampling_curves`: beginnings of texts, questions, and pairs of words."""

PROMPTS = (
    "Once upon a time there was a fox who",
    "Dear diary, today I",
    "The best way to learn to cook is",
    "The old lighthouse keeper opened the door and",
    "Scientists have discovered a new",
    "The train was late again, so",
    "My favourite thing about the sea is",
    "Yesterday my neighbour told me",
    "She looked at the letter and",
    "The recipe begins with two eggs and",
    "It was the coldest winter that",
    "The dog ran into the garden because",
    "Nobody in the village knew why",
    "When I was a child, my grandmother",
    "The museum has opened a new room for",
    "If you want to grow tomatoes,",
)

# Questions with short answers. An answer is right if it contains one of the words.
QUESTIONS = {
    "What is the capital of France?": ("paris",),
    "What is the capital of Italy?": ("rome",),
    "What is the capital of Japan?": ("tokyo",),
    "What is the capital of Egypt?": ("cairo",),
    "What is the capital of Spain?": ("madrid",),
    "What is the capital of Germany?": ("berlin",),
    "What is the largest planet in our solar system?": ("jupiter",),
    "Which planet is closest to the Sun?": ("mercury",),
    "What is the chemical symbol for gold?": ("au",),
    "What is the chemical formula of water?": ("h2o", "h₂o"),
    "How many days are in a week?": ("7", "seven"),
    "How many legs does a spider have?": ("8", "eight"),
    "Who wrote Romeo and Juliet?": ("shakespeare",),
    "Who painted the Mona Lisa?": ("leonardo", "vinci"),
    "In which continent is Kenya?": ("africa",),
    "What is the largest ocean on Earth?": ("pacific",),
}

# Two words that the model is asked to write in one sentence.
PAIRS = (
    ("tiger", "river"),
    ("clock", "bread"),
    ("moon", "ladder"),
    ("snow", "violin"),
    ("garden", "storm"),
    ("ship", "letter"),
)
