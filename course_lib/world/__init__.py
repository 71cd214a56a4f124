"""The made-up world: text to train on whose every truth is known.

Animals do things for a reason, and the reason says what *it* is:

    The tiger jumped out of a tree to get a drink because it was thirsty.      it = the tiger
    The tiger jumped out of a tree to get a drink because it was dusty.        it = the tree

Everything comes from a seed and carries its truth, so that a model trained on it can be scored exactly: where its *it* looks,
whether its answer, its sum, its French or its caption is right. Read in this order: `words` (the vocabulary, as tables), `plots`
(what happens, how many there are, what is held out), `french` (both languages at once), `stories`, `questions`, `sums`,
`pictures`, `marks` (tasks on one line), `tokens`, `truths` (is a guess right?).

>>> story = next(stories(seed=1, sentences=1))
>>> story.text
'The big tiger picked up the hat because it was very pretty.'
>>> story.plot.referent, story.plot.reason, story.text[slice(*story.it)], story.text[slice(*story.referent)]
('hat', 'pretty', 'it', 'hat')
>>> next(translations(seed=1)).french
"Le grand tigre ramassa le chapeau parce qu'il était très joli."
>>> for item in (next(stories(sentences=3)), next(questions()), next(sums(worked=True)), next(pictures(seed=4))):
...     print(document(item))
The grey lion had a yellow shell and the squirrel had a white bell. The lion hid the box because it was very scared. Then the squirrel laughed.<|end|>
The white bear had a blue cup and the hen had a black drum. The bear comforted the hen because it was very kind. Then the hen laughed. In the end, the bear and the hen were happy.<|question|>What were the bear and the hen in the end?<|answer|>happy<|end|>
A giraffe had 40 plums. Then it gave 35 of them to a friend.<|question|>How many plums did the giraffe have then?<|steps|>40 - 30 = 10. 10 - 5 = 5.<|answer|>5<|end|>
<|picture|>a yellow cross above a blue star<|end|>

**The grammar.** A story has one to four sentences, and one *it*:

    beginning   A Y and an X lived near a PLACE. | The X had a THING and the Y had a THING. | The X reached the PLACE before the Y.
    event       The X DEED a NOUN (to PURPOSE) because it was (very | so | too) REASON.
    ending      The Y looked at the REASON NOUN. | The Y helped the X to PURPOSE. | Then the X ACT.
    last        In the end, the X and the Y were WHAT.

One sentence is the event alone; two, three and four add the beginning, the ending and the last. Nouns take adjectives where
they are first named. Deeds are of four kinds: an animal leaves a place, refuses ("did not …", always "too"), does something to a
thing, or to another animal. Each deed knows the reasons that fit the one who did it and those that fit what it was done to.
The world is stricter than English: a house may not be lonely here nor a thief precious, and *cold* is said of animals only (a
place is icy). Where a reader could waver, the tables of `words` decide.

**Sizes.** 286 English words but numbers (231 in stories), 295 French ones; 24 animals, 27 places, 14 things, 8 foods, 26
deeds. Distinct stories of one sentence: 33,154,752 (`count_plots`: products of independent choices, summed over deeds, animals
and objects; the tests list every story of smaller grammars to check it), and more than 10¹³ of each greater length. They
are 60,264 plots, each told in many ways. `world_tokenizer()` has 1,440 tokens; a story of one sentence takes 13 on average, of
two 25, of three 31, of four 43.

**Splits.** "train" and "held_out" share no plot: who did what, to what, and why. A hash of those four decides, one in ten
held out, so however a plot is told, asked about or translated, it stays on its side; the thirsty tiger in its tree is held out.
A plot's words are all met in training; only their combination is new. Sums are split by their two numbers in either
order, added or taken away; pictures by what they show.

**What guessing gets.** Which of two nouns *it* is, is a fair coin's choice made after all that stands before the reason, so no
rule that doesn't read the reason does better than half. In 20,000 stories (`SHALLOW_RULES`; the tests compute the rates again):

                            one sentence    two to four
    first noun                  0.50           0.31
    last noun                   0.46           0.46
    most named noun             0.50           0.50
    who did it                  0.50           0.50
    what it was done to         0.50           0.50

Reading the reason and nothing else goes far: guessing, for each word, the role that it has most often is right in 0.90 of the
stories of one sentence. The rest needs the deed too, as where one animal acts on another: who hid from whom *because it was
angry*, who chased whom *because it was hungry*.

Not here: plurals, present or future, dialogue, more than one *it*, and any knowledge of the real world: here, bees carry cows.
"""

from course_lib.world.french import Translation, split_words
from course_lib.world.marks import ANSWER, END, FRENCH, MARKS, PAD, PICTURE, QUESTION, STEPS, document
from course_lib.world.pictures import Picture, Shape, pictures
from course_lib.world.plots import Beginning, Grammar, Plot, choose, count_plots, plots, side, take
from course_lib.world.questions import QUESTION_KINDS, Question, questions, questions_about
from course_lib.world.stories import Story, stories, tell, translate, translations
from course_lib.world.sums import Sum, sums
from course_lib.world.tokens import span_tokens, world_tokenizer
from course_lib.world.truths import SHALLOW_RULES, answers, describes, resolves, solves

__all__ = [
    "ANSWER",
    "END",
    "FRENCH",
    "MARKS",
    "PAD",
    "PICTURE",
    "QUESTION",
    "QUESTION_KINDS",
    "SHALLOW_RULES",
    "STEPS",
    "Beginning",
    "Grammar",
    "Picture",
    "Plot",
    "Question",
    "Shape",
    "Story",
    "Sum",
    "Translation",
    "answers",
    "choose",
    "count_plots",
    "describes",
    "document",
    "pictures",
    "plots",
    "questions",
    "questions_about",
    "resolves",
    "side",
    "solves",
    "span_tokens",
    "split_words",
    "stories",
    "sums",
    "take",
    "tell",
    "translate",
    "translations",
    "world_tokenizer",
]
