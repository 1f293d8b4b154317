"""Several answers at once on one event loop, without a thread of your own. They are computed together.

python examples/python/08_async.py [MODEL]
"""

import asyncio
import sys

from qwen_ffi import QwenInferenceSession, demo_model_path

QUESTIONS = ("What is 17 + 25?", "What is 348 + 275?", "What is 90 - 45?")


async def ask(session: QwenInferenceSession, number: int) -> None:
    async for event in session.astream(QUESTIONS[number], temperature=0, reasoning_mode=False, max_tokens=200):
        if event.text:
            print(f"{'':<{number * 12}}{event.text!r}")  # a column for each answer


async def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
    async with await QwenInferenceSession.aopen(model) as session:
        await asyncio.gather(*(ask(session, number) for number in range(len(QUESTIONS))))
        print(await session.agenerate("What is 42 + 100?", temperature=0, reasoning_mode=False, max_tokens=200))


asyncio.run(main())
