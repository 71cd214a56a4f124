"""The vocabulary, as tables: each entry is a word and its French, so that an error is easy to see.

Nouns are written "english french gender", adjectives "english masculine feminine". What an animal does is a
`Deed`. It keeps the reasons that describe the animal apart from the reasons that describe the object: this
is the knowledge that resolving *it* needs.

Phrases are written "to:pour get-a-drink:boire". A colon joins words that translate each other, and a hyphen
stands for a space. French words are written in full ("de le arbre"); `french.py` elides and contracts them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """An English noun and its French. gender: "m" or "f", of the French word."""

    english: str
    french: str
    gender: str


@dataclass(frozen=True)
class Adjective:
    """An English adjective and the masculine and feminine of its French."""

    english: str
    m: str
    f: str


@dataclass(frozen=True)
class Deed:
    """What an animal did to an object, with the reasons that fit.

    kind: "leave" (a place), "refuse" (the animal did not do it, because something was too …), "thing" (the
        animal handled an object) or "pair" (the object is a second animal).
    phrase: the verb in both languages.
    base: its English infinitive.
    objects: the nouns that it may be done to.
    animal_reasons, object_reasons: the reasons that describe the animal, and those that describe the object.
    """

    kind: str
    phrase: str
    base: str
    objects: tuple[str, ...]
    animal_reasons: tuple[str, ...]
    object_reasons: tuple[str, ...]

    @property
    def english(self) -> str:
        verb = _english(self.phrase)
        return f"did not {verb}" if self.kind == "refuse" else verb


@dataclass(frozen=True)
class Purpose:
    """Why an animal left a place, with the reasons that fit, split as those of a `Deed` are."""

    phrase: str
    animal_reasons: tuple[str, ...]
    object_reasons: tuple[str, ...]

    @property
    def english(self) -> str:
        return _english(self.phrase)


def _english(phrase: str) -> str:
    """Return the English of a phrase: "to:pour get-a-drink:boire" → "to get a drink"."""
    return " ".join(pair.split(":")[0] for pair in phrase.split()).replace("-", " ")


def _parse_nouns(table: str) -> dict[str, Noun]:
    return {row.split()[0]: Noun(*row.split()) for row in table.strip().split(",")}


def _parse_deeds(kind: str, table: str) -> tuple[Deed, ...]:
    return tuple(_parse_deed(kind, *row.split("|")) for row in table.strip().splitlines())


def _parse_deed(kind: str, phrase: str, base: str, *lists: str) -> Deed:
    objects, animal_reasons, object_reasons = (tuple(words.split()) for words in lists)
    return Deed(kind, phrase.strip(), base.strip(), objects, animal_reasons, object_reasons)


def _parse_purposes(table: str) -> tuple[Purpose, ...]:
    rows = (row.split("|") for row in table.strip().splitlines())
    return tuple(Purpose(phrase.strip(), tuple(a.split()), tuple(o.split())) for phrase, a, o in rows)


ANIMALS = _parse_nouns(
    "tiger tigre m, lion lion m, bear ours m, wolf loup m, fox renard m, monkey singe m, "
    "rabbit lapin m, elephant éléphant m, owl hibou m, squirrel écureuil m, donkey âne m, cat chat m, "
    "mouse souris f, frog grenouille f, giraffe girafe f, hen poule f, cow vache f, turtle tortue f, "
    "goat chèvre f, bee abeille f, goose oie f, otter loutre f, spider araignée f, ant fourmi f"
)
PLACES = _parse_nouns(
    "tree arbre m, nest nid m, boat bateau m, basket panier m, garden jardin m, field champ m, "
    "castle château m, wall mur m, swamp marais m, desert désert m, lake lac m, pond étang m, "
    "village village m, cave grotte f, house maison f, forest forêt f, barn grange f, tent tente f, "
    "hill colline f, mountain montagne f, tower tour f, valley vallée f, meadow prairie f, "
    "island île f, river rivière f, road route f, ladder échelle f"
)
THINGS = _parse_nouns(
    "ball ballon m, drum tambour m, book livre m, hat chapeau m, bag sac m, flag drapeau m, "
    "umbrella parapluie m, box boîte f, lamp lampe f, bell cloche f, key clé f, cup tasse f, "
    "chair chaise f, shell coquille f"
)
FOODS = _parse_nouns(
    "apple pomme f, pear poire f, plum prune f, carrot carotte f, orange orange f, banana banane f, "
    "melon melon m, cake gâteau m"
)
NOUNS = ANIMALS | PLACES | THINGS | FOODS
LANDMARKS = ("lake", "pond", "castle", "river", "forest", "island", "mountain", "village")

# Nouns that no *it* refers to here, but that stand between it and its referent.
OTHER_NOUNS = ("drink", "food", "sleep", "friend", "help")

_ADJECTIVES = """
little petit petite, big grand grande, old vieux vieille, young jeune jeune, funny drôle drôle,
brown brun brune, grey gris grise, black noir noire, white blanc blanche, red rouge rouge,
blue bleu bleue, green vert verte, yellow jaune jaune, strange étrange étrange, secret secret secrète,
famous célèbre célèbre, round rond ronde, thirsty assoiffé assoiffée, hungry affamé affamée,
greedy gourmand gourmande, tired fatigué fatiguée, sleepy somnolent somnolente, cold gelé gelée,
scared effrayé effrayée, shy timide timide, lonely seul seule, sad triste triste, sick malade malade,
hurt blessé blessée, weak faible faible, lazy paresseux paresseuse, fat gros grosse,
clumsy maladroit maladroite, jealous jaloux jalouse, curious curieux curieuse, angry fâché fâchée,
rude impoli impolie, naughty coquin coquine, strong fort forte, kind gentil gentille,
generous généreux généreuse, brave courageux courageuse, lost perdu perdue, wise sage sage,
clever rusé rusée, grateful reconnaissant reconnaissante, polite poli polie, wet mouillé mouillée,
dry sec sèche, dusty poussiéreux poussiéreuse, empty vide vide, noisy bruyant bruyante,
bright lumineux lumineuse, icy glacé glacée, windy venteux venteuse, damp humide humide,
quiet calme calme, dangerous dangereux dangereuse, dark sombre sombre, wide large large, tall haut haute,
slippery glissant glissante, small petit petite, narrow étroit étroite, salty salé salée, hard dur dure,
sour acide acide, heavy lourd lourde, sweet sucré sucrée, fresh frais fraîche,
delicious délicieux délicieuse, sticky collant collante, precious précieux précieuse, rare rare rare,
shiny brillant brillante, pretty joli jolie, ugly laid laide, useless inutile inutile
"""
ADJECTIVES = {row.split()[0]: Adjective(*row.split()) for row in _ADJECTIVES.strip().split(",")}
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
ANIMAL_ADJECTIVES = ("little", "big", "old", "young", "funny", "brown", "grey", "black", "white")
PLACE_ADJECTIVES = ("old", "strange", "secret", "famous")
FOOD_ADJECTIVES = ("little", "big", "round")

# French adjectives that stand before their noun; all others follow it.
BEFORE_NOUN = {"petit", "grand", "gros", "vieux", "jeune", "joli", "gentil"}
# French words whose h forbids elision: le hibou.
ASPIRATED = {"hibou", "hors", "haut", "haute"}

DEGREES = {"very": "très", "so": "si", "too": "trop"}

PURPOSES = _parse_purposes("""
get-a-drink:boire                       | thirsty       | dry dusty
find:trouver some:de-la food:nourriture | hungry greedy | empty dry
get-some-sleep:dormir                   | tired sleepy  | noisy bright
get-warm:se-réchauffer                  | cold          | icy windy damp
hide:se-cacher                          | scared shy    | bright dangerous
find:trouver a:un friend:ami            | lonely sad    | quiet empty
get:demander some:de-la help:aide       | sick hurt     | dark dangerous
""")


def _all_reasons(field: str) -> str:
    return " ".join(dict.fromkeys(word for purpose in PURPOSES for word in getattr(purpose, field)))


# A deed of this kind fits every reason of every purpose.
_ANY = f"{_all_reasons('animal_reasons')} | {_all_reasons('object_reasons')}"
_LEAVE = f"""
jumped:sauta out-of:de         | jump out of     | tree nest boat basket tower                     | {_ANY}
climbed-down:descendit from:de | climb down from | tree hill tower mountain                        | {_ANY}
crept:se-glissa out-of:hors-de | creep out of    | cave tent house barn nest castle garden         | {_ANY}
ran:se-enfuit out-of:de        | run out of      | cave forest garden field barn house castle      | {_ANY}
walked:sortit out-of:de        | walk out of     | cave forest garden house tent swamp village     | {_ANY}
left:quitta | leave | cave forest garden field house barn castle valley meadow island village | {_ANY}
"""

_REFUSE = """
cross:traversa      |cross   |river lake road field swamp desert valley|tired weak lazy scared|wide dangerous
climb:escalada      |climb   |tree hill wall mountain tower ladder     |tired weak lazy scared|tall slippery
go:entra into:dans  |go into |cave house castle forest tent barn       |shy scared lazy       |dark noisy damp
fit:tenait into:dans|fit into|box bag basket boat tent nest            |big fat               |small narrow
eat:mangea          |eat     |apple pear carrot orange melon cake      |sick tired sad        |salty hard sour
lift:souleva        |lift    |box drum bell bag chair book             |tired weak lazy       |heavy slippery
"""

_ANIMALS, _THINGS, _FOODS = (" ".join(nouns) for nouns in (ANIMALS, THINGS, FOODS))

_THING = f"""
ate:mangea             | eat        | {_FOODS}  | hungry greedy         | sweet fresh delicious
dropped:laissa-tomber  | drop       | {_THINGS} | tired weak clumsy     | heavy slippery sticky
hid:cacha              | hide       | {_THINGS} | jealous scared        | precious rare shiny
picked-up:ramassa      | pick up    | {_THINGS} | curious clever        | shiny pretty rare
threw-away:jeta        | throw away | {_THINGS} | angry                 | ugly useless
"""

_PAIR = f"""
chased:poursuivit         | chase     | {_ANIMALS} | hungry angry         | naughty rude
carried:porta             | carry     | {_ANIMALS} | strong kind          | tired hurt weak
helped:aida               | help      | {_ANIMALS} | kind strong brave    | lost hurt weak scared
followed:suivit           | follow    | {_ANIMALS} | lost lonely curious  | wise clever
hid:se-cacha from:de      | hide from | {_ANIMALS} | scared shy weak      | angry rude dangerous
fed:nourrit               | feed      | {_ANIMALS} | generous kind        | hungry weak sick
warmed:réchauffa          | warm      | {_ANIMALS} | generous kind        | cold wet sick
comforted:consola         | comfort   | {_ANIMALS} | kind wise            | sad lonely lost
thanked:remercia          | thank     | {_ANIMALS} | grateful polite      | kind generous
"""

DEEDS = (
    *_parse_deeds("leave", _LEAVE),
    *_parse_deeds("refuse", _REFUSE),
    *_parse_deeds("thing", _THING),
    *_parse_deeds("pair", _PAIR),
)

# How a longer story ends: what one animal does, and what both are (masculine plural, feminine plural).
ACTS = {
    "laughed": "rit",
    "sang": "chanta",
    "danced": "dansa",
    "slept": "dormit",
    "smiled": "sourit",
    "sighed": "soupira",
    "yawned": "bâilla",
    "shouted": "cria",
}
BOTH_WERE = {"happy": ("heureux", "heureuses"), "proud": ("fiers", "fières"), "friends": ("amis", "amies")}
