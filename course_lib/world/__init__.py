"""The made-up world: text to train on, with a known truth for every item.

Animals do things for a reason, and the reason decides what *it* is:

    The tiger jumped out of a tree to get a drink because it was thirsty.      it = the tiger
    The tiger jumped out of a tree to get a drink because it was dusty.        it = the tree

Every item is generated from a seed and carries its truth. A model trained on the items can therefore be
scored exactly: whether *it* attends to its referent, and whether an answer, a sum, a translation or a
caption is right. Read the modules in this order: `words` (the vocabulary, as tables), `grammar` (which words
may stand together), `plots` (what happens), `counting` (how many plots there are), `splits` (what is held
out), `french` (both languages at once), `stories`, `questions`, `sums`, `pictures`, `marks` (the special
tokens that write a task as one line of text), `tokens`, `truths` (whether a guess is right).

>>> story = next(stories(seed=1, sentences=1))
>>> story.text
'The big tiger picked up the hat because it was very pretty.'
>>> story.plot.referent, story.plot.reason, story.text[slice(*story.it)], story.text[slice(*story.referent)]
('hat', 'pretty', 'it', 'hat')
>>> next(translations(seed=1)).french
"Le grand tigre ramassa le chapeau parce qu'il était très joli."

Each of these documents is one line. They are wrapped here to fit the page.

>>> from textwrap import fill
>>> items = next(stories(sentences=3)), next(questions()), next(sums(worked=True)), next(pictures(seed=4))
>>> for item in items:
...     print(fill(document(item), 100, subsequent_indent="    "))
The grey lion had a yellow shell and the squirrel had a white bell. The lion hid the box because it
    was very scared. Then the squirrel laughed.<|end|>
The white bear had a blue cup and the hen had a black drum. The bear comforted the hen because it
    was very kind. Then the hen laughed. In the end, the bear and the hen were
    happy.<|question|>What were the bear and the hen in the end?<|answer|>happy<|end|>
A giraffe had 40 plums. Then it gave 35 of them to a friend.<|question|>How many plums did the
    giraffe have then?<|steps|>40 - 30 = 10. 10 - 5 = 5.<|answer|>5<|end|>
<|picture|>a yellow cross above a blue star<|end|>

**The grammar.** A story has one to four sentences, and one *it*:

    beginning   A Y and an X lived near a PLACE. | The X had a THING and the Y had a THING.
                | The X reached the PLACE before the Y.
    event       The X DEED a NOUN (to PURPOSE) because it was (very | so | too) REASON.
    ending      The Y looked at the REASON NOUN. | The Y helped the X to PURPOSE. | Then the X ACT.
    last        In the end, the X and the Y were STATE.

A story of one sentence is the event alone. Two, three and four sentences add the beginning, the ending and
the last sentence, in this order. Nouns take adjectives where they are first named. There are four kinds of
deeds: an animal leaves a place, refuses something ("did not …", always "too"), does something to a thing, or
does something to another animal. Each deed lists the reasons that fit the animal and the reasons that fit
the object. The world is stricter than English: a house is never lonely here and a thief never precious, and
only animals are *cold* (a place is icy). Where English leaves the referent open, the tables of `words`
decide.

**Sizes.** There are 286 English words apart from numbers (231 in stories) and 295 French words; 24 animals,
27 places, 14 things, 8 foods and 26 deeds. A *plot* (`Plot`) is everything that a story says, so each plot
is one story. There are 33,154,752 plots of one sentence, and more than 10¹³ of each greater length.
`count_plots` computes these counts as products of independent choices, summed over deeds, animals and
objects; the tests check it by listing every story of smaller grammars. A plot's *key* (`Plot.key`) is who did
what, to what, and why. There are 60,264 keys, and each is told in many ways. `world_tokenizer()` has 1,440
tokens. On average a story of one sentence has 13 tokens, of two sentences 25, of three 31 and of four 43.

**Splits.** "train" and "held_out" share no key: a hash of the key decides, and one key in ten is held out.
However its plots are told, asked about or translated, a key therefore stays in its split. The thirsty tiger
in its tree is held out. All words of a held-out key appear in training; only their combination is new. Sums
are split by their two numbers, in either order, added or subtracted. Pictures are split by what they show.

**What guessing gives.** *It* is either of two nouns with even chances, whatever stands before the reason. A
rule that doesn't read the reason is therefore right half of the time at most. In 20,000 stories
(`SHALLOW_RULES`; the tests compute the rates again):

                            one sentence    two to four
    first noun                  0.50           0.31
    last noun                   0.46           0.46
    most named noun             0.50           0.50
    who did it                  0.50           0.50
    what it was done to         0.50           0.50

Reading only the reason goes far: guessing, for each word, the role that it has most often is right in 0.90
of the stories of one sentence. The rest needs the deed too, for instance where one animal acts on another:
who hid from whom *because it was angry*, who chased whom *because it was hungry*.

Not handled: plurals, present or future tense, dialogue, more than one *it*, and knowledge of the real world:
here, bees carry cows.
"""

from course_lib.world.counting import count_plots
from course_lib.world.french import Translation, split_words
from course_lib.world.grammar import Grammar
from course_lib.world.marks import ANSWER, END, FRENCH, MARKS, PAD, PICTURE, QUESTION, STEPS, document
from course_lib.world.pictures import Picture, Shape, pictures
from course_lib.world.plots import Beginning, Plot, choose, plots, take
from course_lib.world.questions import QUESTION_KINDS, Question, questions, questions_about
from course_lib.world.splits import side
from course_lib.world.stories import Story, stories, tell, translate, translations
from course_lib.world.sums import Sum, sums
from course_lib.world.tokens import span_tokens, world_tokenizer
from course_lib.world.truths import SHALLOW_RULES, answers, describes, needs_the_deed, resolves, solves

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
    "needs_the_deed",
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
