"""The two model files that the course ships: their recipe, the scores that they record, and their texts."""

import json
import random
import re
from functools import partial
from itertools import islice

import pytest
import torch
from references import transformers_twin

from course_lib import asset
from course_lib.evaluate import encode_items, would_write
from course_lib.families import load_model, load_world, load_world_base
from course_lib.generate import complete, generate
from course_lib.model import Decoder, ModelConfig
from course_lib.train import IGNORE, TrainConfig, world_model, world_texts
from course_lib.world import (
    ANSWER,
    END,
    QUESTION,
    QUESTION_KINDS,
    STEPS,
    document,
    questions,
    questions_about,
    side,
    stories,
    take,
    world_tokenizer,
)

TOKENIZER = world_tokenizer()
MARKS = TOKENIZER.special.values()
BASE, ANSWERING = "world_base.safetensors", "world.safetensors"
pairs = partial(encode_items, TOKENIZER)


@pytest.fixture(scope="module")
def shipped():
    return load_model(asset(ANSWERING))


@pytest.fixture(scope="module")
def base():
    return load_model(asset(BASE))


# The files


@pytest.mark.parametrize("name", [BASE, ANSWERING])
def test_the_files_record_the_recipe_as_it_stands(name):
    model, facts = load_model(asset(name))
    stored, recipe = facts["recipe"], json.loads(json.dumps(world_model.recipe()))
    # Fields that were added to a configuration later have their defaults.
    assert ModelConfig.from_dict(stored.pop("model")) == ModelConfig.from_dict(recipe.pop("model"))
    for stage in world_model.STAGES:
        settings = [TrainConfig(**each[stage].pop("training")) for each in (stored, recipe)]
        assert settings[0] == settings[1]
    assert stored == recipe
    assert model.config == world_model.MODEL and model.config.vocab_size == TOKENIZER.vocab_size


def test_the_recorded_scores_are_what_the_weights_score(shipped, base):
    for (model, facts), scores in (
        (base, world_model.told(base[0])),
        (shipped, world_model.told(shipped[0]) | world_model.answered(shipped[0])),
    ):
        assert scores.keys() == facts["scores"].keys()
        for name, score in scores.items():
            assert score == pytest.approx(facts["scores"][name], abs=0.005), (name, model.config)


def test_the_documentation_has_the_recorded_scores(shipped, base):
    written = dict(re.findall(r"^    (\S.*?)  +([\d.]+)$", world_model.__doc__, re.MULTILINE))
    scores = {name.removeprefix("answers: "): score for name, score in shipped[1]["scores"].items()}
    assert {name: float(score) for name, score in written.items()} == scores | {
        "loss of the base": base[1]["scores"]["loss"]
    }


def test_the_goals_are_reached_or_their_shortfall_is_told(shipped):
    scores = shipped[1]["scores"]
    short = {
        name.removeprefix("answers: ") for name, goal in world_model.GOALS.items() if scores[name] < goal
    }
    told = re.search(r"falls? short of its goals? in (.+?)\.", world_model.__doc__)
    assert short == (set(told[1].split(" and ")) if told else set())
    lines = world_model.report(scores).splitlines()
    assert len(lines) == len(scores)
    assert sum("goal" in line for line in lines) == len(world_model.GOALS)
    assert sum("falls short" in line for line in lines) == len(short)


def test_the_report_says_what_falls_short():
    scores = dict.fromkeys(world_model.GOALS, 0.93)
    assert [line.endswith("falls short") for line in world_model.report(scores).splitlines()] == [
        goal > 0.93 for goal in world_model.GOALS.values()
    ]


def test_they_are_small_enough_to_ship(shipped):
    assert sum(weight.numel() for weight in shipped[0].parameters()) <= 3_000_000
    for name in (BASE, ANSWERING):
        assert asset(name).stat().st_size <= 6_000_000


@pytest.mark.parametrize("name", [BASE, ANSWERING])
def test_qwen3_of_transformers_computes_the_same_from_the_weights(name):
    model, _ = load_model(asset(name))
    torch.manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (2, 200))
    theirs = transformers_twin(model)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


# What the models do


def test_the_loaded_models_tell_a_story_of_the_world():
    words = {word for seed in range(2000) for word in next(stories(seed)).text.split()}
    for lm in (load_world(), load_world_base()):
        ids = generate(lm.model, lm.tokenizer.encode("The tiger"), 60, stop=lm.tokenizer.special.values())
        told = "The tiger" + lm.tokenizer.decode(ids)
        assert told.endswith(".") and " because it was " in told
        assert set(told.split()) <= words
        assert "".join(complete(lm, "The tiger", chat=False)) == told.removeprefix("The tiger")


def test_the_base_has_never_seen_a_question(base):
    texts = list(world_texts.retold(world_model.SEED, "train", 400))
    assert not any(mark in text for text in texts for mark in (QUESTION, ANSWER, STEPS))
    assert sum(would_write(base[0], pairs(take(100, questions(1, "held_out"))), stop=MARKS)) == 0


def test_an_answer_counts_only_when_greedy_decoding_would_write_it(shipped):
    model, _ = shipped
    for question in islice(questions(3, "held_out"), 30):
        prompt = TOKENIZER.encode(question.prompt, allow_special=True)
        right = TOKENIZER.decode(list(generate(model, prompt, 20, stop=MARKS))) == question.completion
        assert would_write(model, pairs([question]), stop=MARKS) == [right]


# Their texts


def test_documents_are_of_one_split_and_both_kinds_in_turn():
    train, held_out = (list(world_texts.documents(0, split, 60)) for split in ("train", "held_out"))
    assert not set(train) & set(held_out)
    for texts in (train, held_out):
        assert all((QUESTION in text) == bool(i % 2) and text.endswith(END) for i, text in enumerate(texts))


def test_every_other_story_is_told_twice():
    told = [document(story) for story in take(6, stories(4, "train"))]
    expected = [text * (1 + i % 2) for i, text in enumerate(told)]
    assert list(world_texts.retold(4, "train", 6)) == expected


def test_first_sentences_are_told_again_and_half_of_them_turned():
    turned = 0
    for (first, counts), (second, also) in world_texts.first_sentences(4, "train", 300):
        assert counts and also and second.startswith(". ") and second.endswith(f".{END}")
        assert " had " in first or " reached " in first
        again = second.removeprefix(". ").removesuffix(f".{END}")
        words = [
            sorted(re.findall(r"\w+", text.lower().replace("after", "before"))) for text in (first, again)
        ]
        assert words[0] == words[1]
        turned += again != first
    assert 110 < turned < 190


def test_a_story_told_again_answers_all_questions_as_before():
    kinds = set()
    for story in take(300, stories(9, "held_out")):
        again = world_texts.tell_again(story, random.Random(story.text))
        if again != story:
            kinds.add(story.plot.beginning.kind)
            first, second = (
                re.findall(r"(?:The|the|A|a|An|an) (?:\w+ )?(\w+) (?:had|reached|and|lived)", each.text)[0]
                for each in (story, again)
            )
            assert first != second or story.plot.beginning.kind == "lived"
        answers = [{(q.question, q.answer) for q in questions_about(each)} for each in (story, again)]
        assert answers[0] == answers[1]
        assert story.plot.key == again.plot.key
    assert kinds == {"had", "reached", "lived"}


def test_drills_ask_what_the_first_sentence_answers_in_three_ways():
    ways = {"whole": 0, "key": 0, "bare": 0}
    for (asked, counts), (answer, counted) in world_texts.drills(5, "train", 300):
        assert not counts and counted and answer.endswith(END)
        sentence, mark, question = asked.partition(QUESTION)
        assert sentence.count(".") == 1
        way = "bare" if not mark else "whole" if question.endswith(f"?{ANSWER}") else "key"
        ways[way] += 1
        words = set(answer.removesuffix(END).split()) - {"the", "a", "an"}
        assert words and words < set(re.findall(r"\w+", sentence))
    assert all(80 < n < 120 for n in ways.values())


@pytest.mark.parametrize("kind", world_texts.KEYS)
def test_a_drill_gives_the_answer_of_its_question(kind):
    for question in take(20, questions(6, "train", kinds=(kind,))):
        pieces = [world_texts.drill(question, way) for way in world_texts.WAYS]
        (bare, _), (key, _), (whole, _) = (first for first, _ in pieces)
        assert whole.endswith(f"{QUESTION}{question.question}{ANSWER}")
        assert key.endswith(f"{bare.rsplit(' The ', 1)[1]}{ANSWER}") and QUESTION in key
        assert [answer for _, (answer, _) in pieces][1:] == [question.answer + END] * 2
        assert pieces[0][1][0] == f" {question.answer.split(' ', 1)[1]}{END}"
        assert question.answer.split()[-1] in bare.split(".")[0]


def test_of_a_lesson_only_what_the_model_can_know_counts():
    seen = dict.fromkeys(world_texts.SHARES, 0)
    for pieces in world_texts.lessons(5, "train", 1000):
        texts = [text for text, _ in pieces]
        if len(pieces) == 1:
            kind = "retold"
        elif STEPS in texts[0]:
            kind = "sums"
        elif " because " not in texts[0]:  # no deed
            kind = "drills"
        else:
            kind = "asked"
            assert texts[0].count(QUESTION) == 1 and texts[0].endswith(ANSWER)
        seen[kind] += 1
        assert [counts for _, counts in pieces] == [False, True][-len(pieces) :]
        assert texts[-1].endswith(END)
    assert {kind: n / 1000 for kind, n in seen.items()} == pytest.approx(world_texts.SHARES, abs=0.05)


def test_at_the_end_more_of_the_questions_are_looked_up():
    questions_of = {}
    for shares in (world_texts.SHARES, world_texts.LAST_SHARES):
        taught = list(world_texts.lessons(5, "train", 1000, shares))
        whole = [pieces[0][0] for pieces in taught if " because " in pieces[0][0] and len(pieces) == 2]
        asked = [text.partition(QUESTION)[2].removesuffix(ANSWER) for text in whole]
        looked_up = [text for text in asked if any(key.fullmatch(text) for key in world_texts.KEYS.values())]
        questions_of[len(shares)] = len(looked_up) / len(asked)
    assert questions_of[5] > 0.5 > questions_of[4]


def test_all_kinds_of_questions_are_asked_alike_and_in_their_split():
    kinds = dict.fromkeys(QUESTION_KINDS, 0)
    rng = random.Random(0)
    for story in take(2000, stories(6, "held_out", sentences=4)):
        (prompt, _), (answer, _) = world_texts.ask(world_texts.questions_by_kind(story), rng)
        (kind,) = {q.kind for q in questions_about(story) if (q.prompt, q.answer + END) == (prompt, answer)}
        kinds[kind] += 1
        assert side(story.plot.key) == "held_out"
    assert min(kinds[kind] for kind in ("it", "why", "who", "what")) > 180
    assert all(kinds.values())


def test_rows_begin_with_a_document_and_hold_the_next_tokens():
    taught = list(world_texts.lessons(7, "train", 300))
    tokens, targets = world_texts.to_rows(TOKENIZER, taught, 96)
    assert tokens.shape == targets.shape == (len(tokens), 96)
    first = {pieces[0][0] for pieces in taught}
    for row, wanted in zip(tokens, targets, strict=True):
        assert any(TOKENIZER.decode(row.tolist()).startswith(text) for text in first)
        counted = wanted != IGNORE
        assert torch.equal(wanted[:-1][counted[:-1]], row[1:][counted[:-1]])
        assert 0 < counted.sum()


def test_a_row_by_hand():
    encode = partial(TOKENIZER.encode, allow_special=True)
    taught = [[("The tiger", False), (ANSWER, False), ("the tree", True)], [("The end", True), (END, True)]]
    ids = [encode(text) for pieces in taught for text, _ in pieces]
    n_first, n_all = sum(map(len, ids[:3])), sum(map(len, ids))
    tokens, targets = world_texts.to_rows(TOKENIZER, taught, n_all - 1)
    flat = [token for text in ids for token in text]
    assert tokens.tolist() == [flat[:-1]]
    before = n_first - len(ids[2]) - 1  # what is read while nothing that counts comes next
    assert targets.tolist() == [[IGNORE] * before + flat[before + 1 :]]
    longer = world_texts.to_rows(TOKENIZER, taught, n_first - 1)[0]  # the second document doesn't fill a row
    assert longer.tolist() == [flat[: n_first - 1]]


# The command


def test_the_command_writes_whole_files(tmp_path, monkeypatch, capsys):
    tiny = world_model.Stage(TrainConfig.pretraining(2), documents=60, batch=2, time=60)
    for stage in world_model.STAGES:
        monkeypatch.setattr(world_model, stage.upper(), tiny)
    monkeypatch.setattr(world_model, "STAGES", dict.fromkeys(world_model.STAGES, tiny))
    monkeypatch.setattr(world_model, "N_SCORED", 4)
    for folder in ("once", "again"):
        (tmp_path / folder).mkdir()
        world_model.make(tmp_path / folder)
    assert "worked sums" in capsys.readouterr().out
    for name in (BASE, ANSWERING):
        model, facts = load_model(tmp_path / "once" / name)
        assert isinstance(model, Decoder) and facts["recipe"] == json.loads(json.dumps(world_model.recipe()))
        assert all(torch.isfinite(weight).all() for weight in model.parameters())
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert {f"answers: {kind}" for kind in QUESTION_KINDS} < set(facts["scores"])
