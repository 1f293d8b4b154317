"""The text that the demo model learns: questions, visible thinking, answers; and the hold-out rule.

Everything is drawn from a `random.Random` that the caller seeds, so that the same seed gives the same text.
`conversation` is the entry: a chat that ends with a question, and what to think and answer.  `held_out` decides
by a hash which operand pairs never appear in it; `draw_pair(rng, held=True)` gives exactly those.
"""

from __future__ import annotations

import random

# ---------------------------------------------------------------- the text: sums

ADD = """What is {a} plus {b}?|How much is {a} plus {b}?|Please add {a} and {b}.|Add {a} and {b}|{a} + {b} = ?
{a} + {b}|{a}+{b}|{a}+{b}=|{a} plus {b}|What's {a} + {b}?|What is {a} + {b}?|Calculate {a} + {b}.
Can you add {b} to {a}?|What is the sum of {a} and {b}?|Compute the sum of {a} and {b}.
If I add {b} to {a}, what do I get?|Tell me {a} plus {b}|How much do {a} and {b} make together?
What is {b} more than {a}?|Work out {a} plus {b}|{a} and {b} together?"""
SUB = """What is {a} minus {b}?|How much is {a} minus {b}?|Subtract {b} from {a}.|Take {b} from {a}
{a} - {b} = ?|{a} - {b}|{a}-{b}|{a}-{b}=|{a} minus {b}|What's {a} - {b}?|What is {a} - {b}?|Calculate {a} - {b}.
Take {b} away from {a}.|What is {b} less than {a}?|What is left if I take {b} from {a}?
If I subtract {b} from {a}, what do I get?|Please subtract {b} from {a}.|Tell me {a} minus {b}
Work out {a} minus {b}|Can you take {b} from {a}?|{a} take away {b}"""
ADD_STORY = """I have {a} {n} and buy {b} more. How many {n} do I have now?
I had {a} {n} and got {b} more. How many now?
There are {a} {n} in one box and {b} in another. How many {n} are there in total?
{who} has {a} {n} and gets {b} more. How many {n} does {who} have?
{who} finds {a} {n} and then {b} more. How many in all?
I have {a} {n} and {who} gives me {b} more. How many {n} do I have?
We have {a} {n} and need {b} more. How many is that?
A shop sells {a} {n} on Monday and {b} on Tuesday. How many {n} is that?|{a} {n} plus {b} {n}?"""
SUB_STORY = """I have {a} {n} and give away {b}. How many {n} are left?
{who} had {a} {n} and lost {b}. How many are left?
There are {a} {n} on the table and I take {b}. How many {n} remain?
I have {a} {n} and {b} break. How many are left?
I have {a} {n} and sell {b} of them. How many {n} do I have left?
I had {a} {n} and ate {b}. How many {n} are left?
{who} has {a} {n} and gives {b} to me. How many {n} does {who} have now?|{a} {n} minus {b} {n}?
A shop has {a} {n} and sells {b}. How many {n} are left?|We need {a} {n} and have {b}. How many {n} are missing?"""
MORE = "Now add {b}.|And plus {b}?|Add {b} more.|Plus {b}?|Now plus {b}|Add {b} to that.|And {b} more?|+ {b}"
LESS = """Now take away {b}.|And minus {b}?|Subtract {b}.|Minus {b}?|Now minus {b}|Take {b} from that.
And {b} less?|- {b}"""
THINGS = """apples books coins cards pears eggs cookies marbles stamps pencils flowers stones balls tickets
cakes shells birds cats dogs cars trees boxes oranges bananas euros dollars points pages chairs cups keys lemons
nuts plums stars toys bricks bottles candies grapes letters photos plates shirts songs spoons sweets""".split()
NAMES = """Anna Ben Clara David Emma Felix Grace Hugo Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tom Uma Vera
Will Xin Yuki Zoe Ali Maria John Lena Max Wei Li Peter""".split()
SYSTEMS = """You are a helpful assistant.|You are a friendly assistant.|You are a calculator.|Answer briefly.
You are libqwen's demo.|You are Qwen, created by Alibaba Cloud. You are a helpful assistant.
Be kind and precise.|You are a patient teacher for young children."""

# ---------------------------------------------------------------- the text: plain chat

CHAT = [  # (what people say, what the model thinks, what it replies)
    ("Hello|Hi|Hey|Hello!|Hi!|Hi there|Hello there!|Good morning|Good evening!|Hey there|Good day|Hallo|Greetings|yo",
     "This is a greeting. I greet back.",
     "Hello! Give me two numbers from 0 to 999 and I will add or subtract them."),
    ("Who are you?|What are you?|What is your name?|Tell me about yourself|Are you an AI?"
     "|Are you a robot?|Are you Qwen?|Who made you?|Introduce yourself|What's your name?"
     "|What model are you?|Are you ChatGPT?|who is this",
     "They ask who I am.",
     "I am the libqwen demo, a tiny Qwen3 model that adds and subtracts."),
    ("What can you do?|Help|Help me|How can you help me?|What do you know?|What should I ask?|Can you help me?"
     "|What now?|What are you good at?|How do I use you?|Give me an example|Can you do math?"
     "|Can you add?|Can you count?|?|test",
     "They ask what I can do.",
     "I can add and subtract numbers from 0 to 999. Try this: What is 347 plus 285?"),
    ("Thanks|Thank you|Thank you!|Thanks a lot!|Great, thanks|Nice|Great!|Cool|Well done!|Good job|Wow|Perfect|Thx|OK"
     "|Okay|That is right|Correct!|Awesome!|Very good|Amazing|You are great|I like you",
     "They are kind to me.",
     "You are welcome! Shall we try another one?"),
    ("Bye|Goodbye|Bye!|See you|See you later!|Good night|Goodbye!|Have a nice day|Exit|Quit|Ciao|Stop",
     "They say goodbye.",
     "Goodbye! Come back when you have numbers to add."),
    ("How are you?|How are you today?|How do you do?|How is it going?|Are you well?|What's up?|How do you feel?",
     "They ask how I am.",
     "I am fine, thank you! Which two numbers shall I add?"),
]
OFF_TOPIC = ("This is not about adding or subtracting.",
             "I am only a tiny demo that adds and subtracts, so I cannot help with that. Try this: 812 minus 345.")
TIMES = ("This is not adding or subtracting.", "I never learned to multiply or divide. I only add and subtract.")
TOO_BIG = ("One number has more than three digits.", "I only know numbers from 0 to 999. Please try smaller ones.")
TIMES_ASK = """What is {a} times {b}?|{a} * {b}|Multiply {a} by {b}.|Divide {a} by {b}|{a} / {b}|{a} x {b}
How much is {a} times {b}?|What is {a} divided by {b}?|What is {b} percent of {a}?|Calculate {a} * {b}.|{a}*{b}
{a} times {b}|{a}/{b}"""
OTHER_ASK = """What is the capital of {w}?|Tell me a {w}|Write a poem about {w}.|Who wrote {w}?
Write a {w} in {w}.|Where is {w}?|Translate {w} into {w}.|What is the {w} of {w}?|Why is the {w} so {w}?
How do I {w} a {w}?|What is {w}?|Who is {w}?|{w}|Explain {w} to me.|Do you like {w}?
What do you think about {w}?|Tell me about {w}.|{w} {w}|{w} {w} {w}|Is {w} a {w}?|When was {w} born?
How old is {w}?|What is the best {w}?|Can you {w}?|Can you write {w}?|Please {w} the {w}.|Why {w}?
How far is {w} from {w}?|What is the meaning of {w}?|Give me a {w} for {w}.|I want to {w}.|I am {w}.
My name is {w}.|How many {w} are in {w}?|What time is it in {w}?|What is the weather in {w}?
Sing a song about {w}.|Who won the {w}?"""
WORDS = """France Germany Japan Paris London China India Rome joke story poem song recipe code Python Java Rust
English Spanish German Chinese sky blue water moon sun sea cat dog bird love life music art history math physics
science weather today tomorrow Shakespeare Einstein Mozart Napoleon president king queen world cup war peace
food bread pizza coffee tea cake soup book film game football chess car train plane house school city country
river mountain computer phone language model neural network internet program function letter email name color
green red big small old new good bad happy sad cook dance sing read play sleep run learn speak write translate
summarize draw drive build buy the a my your this that is of in time money health doctor friend family child
dream secret Mars earth sugar salt rain snow winter summer dinosaur robot""".split()

Turn = dict[str, str]


def options(text: str) -> list[str]:
    return text.replace("\n", "|").split("|")


ADD_L, SUB_L, ADD_STORY_L, SUB_STORY_L = options(ADD), options(SUB), options(ADD_STORY), options(SUB_STORY)
MORE_L, LESS_L, SYSTEMS_L, TIMES_L, OTHER_L = map(options, (MORE, LESS, SYSTEMS, TIMES_ASK, OTHER_ASK))
CHAT_L = [(options(asked), thought, reply) for asked, thought, reply in CHAT]


def held_out(a: int, op: str, b: int) -> bool:
    """True for about 10 % of the unordered operand pairs of each operation: those that training never sees."""
    low, high = min(a, b), max(a, b)
    key = (low * 1000 + high) * 2 + (op == "-")
    return ((key * 2654435761) % 2**32 >> 16) % 10 == 0


def draw_pair(rng: random.Random, held: bool = False) -> tuple[int, str, int]:
    """Mostly uniform operands, some short ones, some close to each other or to a round sum."""
    while True:
        a, b, kind = rng.randrange(1000), rng.randrange(1000), rng.random()
        if kind < 0.25:
            a, b = rng.randrange(10 ** rng.randint(1, 3)), rng.randrange(10 ** rng.randint(1, 3))
        elif kind < 0.32:
            b = min(999, max(0, a + rng.randint(-12, 12)))
        elif kind < 0.37:
            b = min(999, max(0, 1000 - a + rng.randint(-12, 12)))
        op = rng.choice("+-")
        if held_out(a, op, b) == held:
            return a, op, b


def value(a: int, op: str, b: int) -> int:
    return a + b if op == "+" else a - b


def sentence(a: int, op: str, b: int) -> str:
    return f"{a} {'plus' if op == '+' else 'minus'} {b} is {value(a, op, b)}"


def columns(a: int, op: str, b: int) -> str:
    """The visible thinking: one line per column, ones first."""
    lines = [f"Line up {a:03d} {op} {b:03d}."]
    result = value(a, op, b)
    if result < 0:
        lines.append(f"{a} is smaller than {b}, so work out {b} - {a} and make it negative.")
    top, bottom, carry = max(a, b) if op == "-" else a, min(a, b) if op == "-" else b, 0
    for place, name in enumerate(("Ones", "Tens", "Hundreds")):
        x, y = top // 10**place % 10, bottom // 10**place % 10
        extra = f" {op} 1" if carry else ""
        if op == "+":
            total = x + y + carry
            carry = total // 10
            tail = f", write {total % 10}, carry 1" if carry and place < 2 else f", write {total}"
        else:
            borrow = x - y - carry < 0
            x, total = x + 10 * borrow, x + 10 * borrow - y - carry
            carry = int(borrow)
            tail = ", borrow 1" if borrow else ""
        lines.append(f"{name}: {x} {op} {y}{extra} = {total}{tail}.")
    lines.append(f"So {top} {op} {bottom} = {abs(result)}" + (f" and {a} - {b} = {result}." if result < 0 else "."))
    return "\n".join(lines)


def pseudo_word(rng: random.Random) -> str:
    word = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
    word += rng.choice(["", "s", "n", "ck", "rt"])
    return word.capitalize() if rng.random() < 0.3 else word


def casual(rng: random.Random, text: str) -> str:
    """The same question as people really type it."""
    if rng.random() < 0.1:
        text = rng.choice(["Hello! ", "Hi, ", "Please tell me: ", "Hey, ", "OK. ", "And ", "Quick question: "]) + text
    if rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.15:
        text = text.rstrip("?.!") or text
    return text


def ask_sum(rng: random.Random, a: int, op: str, b: int) -> tuple[str, str, str]:
    """(question, thinking, answer) for one sum; the answer's last number is the result."""
    story = rng.random() < 0.25 and (op == "+" or a >= b)
    thing = rng.choice(THINGS) if rng.random() < 0.8 else pseudo_word(rng).lower() + "s"
    forms = (ADD_STORY_L if op == "+" else SUB_STORY_L) if story else (ADD_L if op == "+" else SUB_L)
    question = casual(rng, rng.choice(forms).format(a=a, b=b, n=thing, who=rng.choice(NAMES)))
    tail = f", so that {'makes' if op == '+' else 'leaves'} {value(a, op, b)} {thing}." if story else "."
    return question, columns(a, op, b), sentence(a, op, b) + tail


def ask_chat(rng: random.Random) -> tuple[str, str, str]:
    kind = rng.random()
    if kind < 0.55:
        asked, thought, reply = rng.choice(CHAT_L)
        text = rng.choice(asked)
        return (text.lower() if rng.random() < 0.2 else casual(rng, text)), thought, reply
    a, b = rng.randrange(1000), rng.randrange(1000)
    if kind < 0.65:
        return casual(rng, rng.choice(TIMES_L).format(a=a, b=b)), *TIMES
    if kind < 0.75:
        a, b = rng.sample([rng.randrange(1000, 10 ** rng.randint(4, 6)), rng.choice([a, b * 10 + 1000])], 2)
        return casual(rng, rng.choice(ADD_L + SUB_L).format(a=a, b=b)), *TOO_BIG
    form = rng.choice(OTHER_L)
    while "{w}" in form:
        form = form.replace("{w}", rng.choice(WORDS) if rng.random() < 0.6 else pseudo_word(rng), 1)
    return casual(rng, form), *OFF_TOPIC


def conversation(rng: random.Random, turns: int, chat: float = 0.12) -> tuple[list[Turn], str, str]:
    """A chat that ends with a question: (messages, thinking, answer to that question)."""
    messages: list[Turn] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": rng.choice(SYSTEMS_L)})
    last: int | None = None
    for turn in range(turns):
        a, op, b = draw_pair(rng)
        if rng.random() < chat:
            question, thought, answer = ask_chat(rng)
        elif last is not None and 0 <= last <= 999 and rng.random() < 0.3 and not held_out(last, op, b):
            question = casual(rng, rng.choice(MORE_L if op == "+" else LESS_L).format(b=b))
            thought, answer, last = columns(last, op, b), sentence(last, op, b) + ".", value(last, op, b)
        else:
            question, thought, answer = ask_sum(rng, a, op, b)
            last = value(a, op, b)
        messages.append({"role": "user", "content": question})
        if turn < turns - 1:
            messages.append({"role": "assistant", "content": answer})
    return messages, thought, answer
