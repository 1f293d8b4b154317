// What the package promises, against the model in path/to/Qwen3-0.6B, which must be the demo model of the Python package.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";

import { Generation, LLM, QwenError, version } from "../index.js";

const MODEL = fileURLToPath(new URL("../path/to/Qwen3-0.6B", import.meta.url));
const INDEX = new URL("../index.js", import.meta.url).href;
const BRIEFLY = { reasoning_mode: false, temperature: 0 };
const ENDLESS = { raw: true, ignore_eos: true, max_tokens: 60000 }; // of the model below: many seconds, if nobody ends it
const MANY = Array.from({ length: 2000 }, (_, n) => `Text number ${n}, of some words.`);

const LONG = mkdtempSync(join(tmpdir(), "qwen-")); // the same model with a longer context
let llm;
let long;
before(async () => {
  for (const name of readdirSync(MODEL)) if (name !== "config.json") symlinkSync(join(realpathSync(MODEL), name), join(LONG, name));
  const config = JSON.parse(readFileSync(join(MODEL, "config.json"), "utf8"));
  writeFileSync(join(LONG, "config.json"), JSON.stringify({ ...config, max_position_embeddings: 65536 }));
  [llm, long] = await Promise.all([LLM.open(MODEL), LLM.open(LONG)]);
});
after(async () => {
  await Promise.all([llm.close(), long.close()]);
  rmSync(LONG, { recursive: true });
});

const failure = (code, message) => (error) => {
  assert.ok(error instanceof QwenError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  return true;
};

test("a stream says what the whole answer says", async () => {
  const generation = llm.generate("What is 17 + 25?", { temperature: 0, logprobs: true, top_logprobs: 2 });
  const said = { answer: "", reasoning: "" };
  const ids = [];
  let finished;
  for await (const event of generation) {
    if (event.type === "finished") finished = event.finishReason;
    else {
      said[event.channel] += event.text;
      ids.push(...event.tokenIds);
      assert.equal(event.logprobs.length, event.tokenIds.length);
      assert.deepEqual(event.topLogprobs.map((row) => row.length), event.tokenIds.map(() => 2));
    }
  }
  const answer = await generation.result();
  const [choice] = answer.choices;
  assert.equal(answer.text, "17 plus 25 is 42.");
  assert.deepEqual(said, { answer: choice.text, reasoning: choice.reasoning });
  assert.deepEqual(ids, choice.tokenIds);
  assert.equal(finished, "stop");
  await assert.rejects(async () => { for await (const _ of generation); }, /iterated once/);
});

test("conversations, token ids, and many at once", async () => {
  const messages = [{ role: "system", content: "You add." }, { role: "user", content: "What is 2 + 3?" }];
  assert.equal((await llm.chat(messages, BRIEFLY)).text, "2 plus 3 is 5.");
  const asked = llm.encode(messages, BRIEFLY);
  assert.equal((await llm.chat(asked, BRIEFLY)).text, "2 plus 3 is 5.");
  const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => llm.chat(`What is ${n} + 1?`, BRIEFLY)));
  assert.deepEqual(answers.map((answer) => answer.text), answers.map((_, n) => `${n} plus 1 is ${n + 1}.`));
});

test("the event loop goes on while the library works", async () => {
  for (const work of [() => llm.chat("What is", { ...ENDLESS, max_tokens: 2000 }), () => llm.embed(MANY.slice(0, 300))]) {
    let done = false;
    let turns = 0;
    const working = work().finally(() => (done = true));
    for (; !done; ++turns) await sleep(1); // a loop that is blocked takes no turn
    await working;
    assert.ok(turns > 10, `${turns} turns of the loop`);
  }
});

test("leaving the loop cancels the request", async () => {
  const generation = long.generate("What is", ENDLESS);
  for await (const event of generation) if (event.tokenIds) break;
  assert.ok(generation.answer.stats.generatedTokens < 60000);
  await assert.rejects(generation.result(), failure("QWEN_ERR_CANCELLED", /cancelled/));
});

test("cancel() and stop() end an answer, and so does Symbol.asyncDispose", async () => {
  const stopped = long.generate("What is", ENDLESS);
  for await (const _ of stopped) stopped.stop();
  assert.equal((await stopped.result()).choices[0].finishReason, "stop");
  const cancelled = long.generate("What is", ENDLESS);
  cancelled.cancel();
  await assert.rejects(async () => { for await (const _ of cancelled); }, failure("QWEN_ERR_CANCELLED", /cancelled/));
  const disposed = long.generate("What is", ENDLESS);
  await disposed[Symbol.asyncDispose]();
  assert.equal(disposed.answer.choices[0].finishReason, "cancelled");
});

test("an AbortSignal ends what listens to it, with its reason", async () => {
  const reason = new Error("enough");
  const aborter = new AbortController();
  const seen = async () => {
    for await (const _ of long.generate("What is", { ...ENDLESS, signal: aborter.signal })) aborter.abort(reason);
  };
  await assert.rejects(seen, (error) => error === reason);
  assert.throws(() => llm.generate("What is", { signal: aborter.signal }), (error) => error === reason);
  await assert.rejects(llm.chat("What is", { signal: aborter.signal }), (error) => error === reason);
  await assert.rejects(LLM.open(MODEL, { signal: aborter.signal }), (error) => error === reason);
  await assert.rejects(llm.embed(MANY, { signal: AbortSignal.timeout(5) }), { name: "TimeoutError" });
  const late = new AbortController();
  assert.equal((await llm.chat("What is 1 + 1?", { ...BRIEFLY, signal: late.signal })).text, "1 plus 1 is 2.");
  late.abort();
});

test("searching", async () => {
  const [one, two] = await llm.embed(["17 plus 25 is 42.", [1, 2, 3]], { dimensions: 32 });
  for (const row of [one, two]) assert.ok(Math.abs(row.reduce((sum, value) => sum + value * value, 0) - 1) < 1e-5);
  const [query] = await llm.embed(["17 plus 25 is 42."], { dimensions: 32, instruction: null });
  assert.notDeepEqual(query, one);
  const scores = await llm.rerank("What is 17 + 25?", ["17 plus 25 is 42.", "Hello!"]);
  assert.equal(scores.length, 2);
  assert.ok(scores.every((score) => score >= 0 && score <= 1));
});

test("errors name what is wrong", async () => {
  await assert.rejects(LLM.open("no/such/model"), failure("QWEN_ERR_NOT_FOUND", /^no\/such\/model: no such folder/));
  await assert.rejects(LLM.open(MODEL, { threads: -1 }), failure("QWEN_ERR_INVALID_ARGUMENT", /^option 'threads' is -1/));
  await assert.rejects(LLM.open("a\0b"), failure("QWEN_ERR_INVALID_ARGUMENT", /^a path must not contain NUL/));
  const refused = (options, message) => assert.throws(() => llm.generate("Hi", options), failure("QWEN_ERR_INVALID_ARGUMENT", message));
  refused({ colour: 3 }, /^unknown option 'colour'/);
  refused({ top_p: 1.5 }, /^option 'top_p' is 1.5; allowed are 0 to 1$/);
  refused({ seed: "x" }, /^option 'seed' takes an integer, not a text$/);
  refused({ max_tokens: 1e6 }, /limited to 2048 tokens/);
  assert.throws(() => llm.generate("Hi", { stop: [3] }), { name: "TypeError", message: "option 'stop' must be a string, not number" });
  assert.throws(() => llm.generate("Hi", { stop_token_ids: [1.5] }), { name: "TypeError", message: "option 'stop_token_ids': 1.5 is not a token id" });
  assert.throws(() => llm.generate([1, 2 ** 31]), { name: "TypeError", message: "prompt: 2147483648 is not a token id" });
  assert.throws(() => llm.generate(3), { name: "TypeError", message: "a prompt must be a string, not number" });
  assert.throws(() => llm.generate("Hi", { seed: () => 3 }), { name: "TypeError" });
  assert.throws(() => llm.generate([]), failure("QWEN_ERR_INVALID_ARGUMENT", /./));
  await assert.rejects(llm.embed([]), failure("QWEN_ERR_INVALID_ARGUMENT", /there must be at least one/));
  await assert.rejects(llm.embed("a"), { name: "TypeError", message: "what is searched must be a list, not string" });
  await assert.rejects(llm.embed(["a", 3]), { name: "TypeError", message: "an input must be a string, not number" });
  assert.match(version, /^\d+\.\d+\.\d+/);
});

test("option values of every kind arrive", async () => {
  const answer = await llm.chat("What is 348 + 275?", {
    ...BRIEFLY, seed: 9007199254740991n, stop: " is", logit_bias: new Map([[5, -100]]), stop_token_ids: new Int32Array([700]), n: 1, top_p: 1,
  });
  assert.deepEqual([answer.text, answer.choices[0].stopText, answer.stats.seed], ["348 plus 275", " is", 9007199254740991]);
  const sure = await llm.chat("Hi", { ...BRIEFLY, logit_bias: { 40: 1000 }, max_tokens: 3, stop: [], adapter: undefined });
  assert.deepEqual(sure.choices[0].tokenIds, [40, 40, 40]);
});

test("closing ends what is under way", async () => {
  const own = await LLM.open(LONG);
  const generation = own.generate("What is", ENDLESS);
  const embedding = own.embed(MANY);
  const closing = own.close();
  assert.throws(() => own.generate("Hi"), failure("QWEN_ERR_CLOSED", /closed/));
  await assert.rejects(own.embed(["a"]), failure("QWEN_ERR_CLOSED", /closed/));
  await Promise.all([
    assert.rejects(generation.result(), failure("QWEN_ERR_CLOSED", /./)),
    assert.rejects(embedding, failure("QWEN_ERR_CANCELLED", /./)),
    closing,
    own[Symbol.asyncDispose](),
  ]);
});

test("what holds a handle is made by the package only", () => {
  assert.throws(() => new Generation(), { name: "TypeError", message: "LLM.generate() makes generations" });
  assert.throws(() => new LLM(), { name: "TypeError", message: "LLM.open() makes models" });
});

const child = (program, ...flags) =>
  promisify(execFile)(process.execPath, [...flags, "--input-type=module", "-e", `import { LLM } from "${INDEX}";\n${program}`, LONG], { timeout: 60000 });
const OPEN = `const llm = await LLM.open(process.argv[1]);\n`;
const START = `${OPEN}const generation = llm.generate("What is", { raw: true, ignore_eos: true, max_tokens: 60000 });\n`;

test("a process ends when its answers are out, closed or not", async () => {
  const { stdout } = await child(`${OPEN}llm.chat("What is 1 + 1?", { reasoning_mode: false }).then((answer) => console.log(answer.text));`);
  assert.equal(stdout, "1 plus 1 is 2.\n");
});

test("a process may end in the middle", async () => {
  const { stdout } = await child(`${START}for await (const event of generation) { console.log("first"); process.exit(0); }`);
  assert.equal(stdout, "first\n");
});

test("what is forgotten is collected", async () => {
  const { stdout } = await child(
    `for (let i = 0; i < 20; ++i) { const llm = await LLM.open(process.argv[1]); await llm.chat("Hi", { max_tokens: 2 }); }
     for (let i = 0; i < 5; ++i) { gc(); await new Promise(setImmediate); }
     console.log(process.memoryUsage().rss < 2 ** 30);`, "--expose-gc");
  assert.equal(stdout, "true\n");
});

test("an answer under way keeps its model", async () => {
  const { stdout } = await child(
    `const ask = async () => (await LLM.open(process.argv[1])).chat("What is", { raw: true, ignore_eos: true, max_tokens: 200 });
     const collecting = setInterval(gc, 1);
     console.log((await ask()).choices[0].tokenIds.length);
     clearInterval(collecting);`, "--expose-gc");
  assert.equal(stdout, "200\n");
});

test("workers have models of their own, and may be terminated", async () => {
  const program = `
    import { parentPort, workerData } from "node:worker_threads";
    const { LLM } = await import(workerData.index);
    const llm = await LLM.open(workerData.model);
    const { text } = await llm.chat("What is 4 + 4?", { reasoning_mode: false, temperature: 0 });
    parentPort.postMessage(text);
    for await (const _ of llm.generate("What is", { raw: true, ignore_eos: true, max_tokens: 60000 }));`;
  const url = new URL(`data:text/javascript,${encodeURIComponent(program)}`);
  await Promise.all([1, 2].map(async () => {
    const worker = new Worker(url, { workerData: { index: INDEX, model: LONG } });
    const text = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    assert.equal(text, "4 plus 4 is 8.");
    await worker.terminate();
  }));
});
