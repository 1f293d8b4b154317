// Run Qwen models in your process; index.d.ts is the reference. The library does the work, on its own threads: nothing here
// blocks the event loop, but for encoding the prompt (about 20 MB of text a second).

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const addon = load("./build/qwen.node");

function load(file) {
  const require = createRequire(import.meta.url);
  try {
    return require(file);
  } catch (error) {
    if (error.code !== "MODULE_NOT_FOUND") throw error; // libqwen.so is missing, say
    throw new Error(`${fileURLToPath(new URL(file, import.meta.url))} has not been built: run \`npm run build\` there`, { cause: error });
  }
}

export class QwenError extends Error {
  constructor(message, status, code) {
    super(message);
    this.name = "QwenError";
    this.status = status;
    this.code = code;
  }
}

export const version = addon.version;

const CLOSED = [8, "QWEN_ERR_CLOSED"];
const INVALID = [1, "QWEN_ERR_INVALID_ARGUMENT"];

// -------------------------------------------------------------------- what the addon takes

const [I64, F64, STR, I32_ARRAY, STR_ARRAY, BIAS] = [1, 2, 3, 4, 5, 6]; // QWEN_OPTION_…

const OURS = Symbol("made by this module"); // what constructors must be given: the addon would not survive others' arguments

const isList = (value) => Array.isArray(value) || ArrayBuffer.isView(value);

function checkText(what, text) {
  if (typeof text !== "string") throw new TypeError(`${what} must be a string, not ${typeof text}`);
  return text;
}

function withoutNul(what, text) {
  if (checkText(what, text).includes("\0")) throw new QwenError(`${what} must not contain NUL: ${JSON.stringify(text)}`, ...INVALID);
  return text;
}

function tokenIds(what, list) {
  for (const id of list)
    if (!Number.isInteger(id) || id !== (id | 0)) throw new TypeError(`${what}: ${String(id)} is not a token id`);
  return Int32Array.from(list);
}

// One option as the addon takes it. The library's table says what is allowed; here only its type is chosen.
function optionEntry(key, value) {
  withoutNul("an option's key", key);
  if (typeof value === "bigint" && Number.isSafeInteger(Number(value))) value = Number(value);
  if (typeof value === "boolean") return [I64, key, Number(value)];
  if (typeof value === "number") return [Number.isSafeInteger(value) ? I64 : F64, key, value];
  if (typeof value === "string") return key === "stop" ? [STR_ARRAY, key, [value]] : [STR, key, value];
  if (isList(value)) {
    if (key === "stop" || typeof value[0] === "string")
      return [STR_ARRAY, key, Array.from(value, (text) => checkText(`option '${key}'`, text))];
    return [I32_ARRAY, key, tokenIds(`option '${key}'`, value)];
  }
  if (typeof value !== "object") throw new TypeError(`option '${key}' cannot be ${String(value)} (${typeof value})`);
  const pairs = value instanceof Map ? [...value] : Object.entries(value);
  const ids = tokenIds(`option '${key}'`, pairs.map(([id]) => Number(id)));
  return [BIAS, key, ids, Float32Array.from(pairs, ([, bias]) => bias)];
}

const optionEntries = (options) =>
  Object.entries(options)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => optionEntry(key, value));

// A string is a user's message where the model has a chat template, unless `raw`; a list is a conversation or token ids.
function promptParts(prompt, { raw, tools, templateVariables }, hasChatTemplate) {
  if (isList(prompt) && (ArrayBuffer.isView(prompt) || typeof prompt[0] === "number"))
    return { tokens: tokenIds("prompt", prompt) };
  if (!isList(prompt)) checkText("a prompt", prompt);
  if (typeof prompt === "string" && (raw || !hasChatTemplate)) return { text: prompt };
  return {
    messages: JSON.stringify(isList(prompt) ? prompt : [{ role: "user", content: prompt }]),
    tools: tools && JSON.stringify(tools),
    variables: templateVariables && JSON.stringify(templateVariables),
  };
}

// -------------------------------------------------------------------- requests

const running = new Map(); // tag -> how the generation takes a delivery
let lastTag = 0;

addon.setup(QwenError, (deliveries) => {
  for (const delivery of deliveries) running.get(delivery.tag)?.(delivery);
});

export class Generation {
  #request;
  #engine; // while it runs: an LLM that nobody holds any more is collected, and would end it
  #events = [];
  #iterated = false;
  #ended = false;
  #error = null;
  #answer = null;
  #wake = () => {};
  #end;

  constructor(ours, engine, parts, entries, signal) {
    if (ours !== OURS) throw new TypeError("LLM.generate() makes generations");
    signal?.throwIfAborted();
    const tag = ++lastTag;
    this.#request = addon.submit(engine, parts, entries, tag);
    this.#engine = engine;
    const abort = () => this.cancel();
    signal?.addEventListener("abort", abort);
    this.#end = new Promise((resolve) => {
      running.set(tag, (delivery) => {
        if (delivery.event) {
          this.#events.push(delivery.event);
        } else {
          this.#ended = true;
          this.#engine = null;
          this.#answer = delivery.answer && { text: delivery.answer.choices[0].text, ...delivery.answer };
          this.#error = delivery.error && signal?.aborted ? signal.reason : delivery.error;
          running.delete(tag);
          signal?.removeEventListener("abort", abort);
          addon.free(this.#request);
          resolve();
        }
        this.#wake();
      });
    });
  }

  async *[Symbol.asyncIterator]() {
    if (this.#iterated) throw new TypeError("a generation is iterated once; result() is the whole answer");
    this.#iterated = true;
    try {
      for (;;) {
        const events = this.#events;
        this.#events = [];
        yield* events;
        if (this.#events.length > 0) continue;
        if (this.#ended) break;
        await new Promise((resolve) => (this.#wake = resolve));
      }
      if (this.#error) throw this.#error;
    } finally {
      await this[Symbol.asyncDispose](); // the loop was left early
    }
  }

  async result() {
    await this.#end;
    if (this.#error) throw this.#error;
    return this.#answer;
  }

  get answer() {
    return this.#answer;
  }

  cancel() {
    if (!this.#ended) addon.cancel(this.#request);
  }

  stop() {
    if (!this.#ended) addon.stop(this.#request);
  }

  async [Symbol.asyncDispose]() {
    this.cancel();
    await this.#end;
  }
}

// -------------------------------------------------------------------- models

// Runs what the addon does on another thread; work(flag) is cancelled by flag[0] = 1.
async function cancellable(work, signal, flags = new Set()) {
  signal?.throwIfAborted();
  const flag = new Int32Array(1);
  const abort = () => Atomics.store(flag, 0, 1);
  flags.add(abort);
  signal?.addEventListener("abort", abort);
  try {
    return await work(flag);
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", abort);
    flags.delete(abort);
  }
}

export class LLM {
  #engine;
  #info;
  #jobs = new Set(); // calls that use the engine on another thread: it must not go before they do
  #closing = null;
  #cancels = new Set(); // and how to cancel them

  constructor(ours, { engine, info } = {}) {
    if (ours !== OURS) throw new TypeError("LLM.open() makes models");
    this.#engine = engine;
    this.#info = Object.freeze(info);
  }

  static async open(path, { signal, ...options } = {}) {
    const name = withoutNul("a path", path instanceof URL ? fileURLToPath(path) : path);
    return new LLM(OURS, await cancellable((flag) => addon.open(name, optionEntries(options), flag), signal));
  }

  get info() {
    return this.#info;
  }

  generate(prompt, { signal, raw, tools, templateVariables, ...options } = {}) {
    const parts = promptParts(prompt, { raw, tools, templateVariables }, this.#info.hasChatTemplate);
    return new Generation(OURS, this.#open(), parts, optionEntries(options), signal);
  }

  async chat(messages, options) {
    return this.generate(messages, options).result();
  }

  encode(prompt, { raw, tools, templateVariables, ...options } = {}) {
    const parts = promptParts(prompt, { raw, tools, templateVariables }, this.#info.hasChatTemplate);
    return addon.encode(this.#open(), parts, optionEntries(options));
  }

  async embed(inputs, { signal, dimensions = 0, instruction, ...options } = {}) {
    return this.#search(addon.embed, inputs, dimensions, { signal, instruction, options });
  }

  async rerank(query, documents, { signal, instruction, ...options } = {}) {
    const [scores] = await this.#search(addon.rerank, documents, checkText("a query", query), { signal, instruction, options });
    return scores;
  }

  close() {
    return (this.#closing ??= this.#close());
  }

  [Symbol.asyncDispose]() {
    return this.close();
  }

  #open() {
    if (this.#closing) throw new QwenError("this LLM is closed", ...CLOSED);
    return this.#engine;
  }

  async #search(start, inputs, last, { signal, instruction, options }) {
    if (!Array.isArray(inputs)) throw new TypeError(`what is searched must be a list, not ${typeof inputs}`);
    const list = inputs.map((item) => (isList(item) ? tokenIds("an input", item) : checkText("an input", item)));
    const work = (flag) => start(this.#open(), list, instruction, optionEntries(options), flag, last);
    const job = cancellable(work, signal, this.#cancels);
    this.#jobs.add(job);
    return job.finally(() => this.#jobs.delete(job));
  }

  async #close() {
    for (const cancel of this.#cancels) cancel();
    await Promise.allSettled(this.#jobs);
    await addon.close(this.#engine);
  }
}
