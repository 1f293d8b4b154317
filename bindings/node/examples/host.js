// The host in Node.js: reads cases from standard input, prints one line of JSON for each (tests/hosts/README.md has both formats).
//
//     node examples/host.js path/to/model < ../../tests/hosts/cases/demo.txt

import { readFileSync } from "node:fs";

import { LLM, QwenError } from "../index.js";

const ENDS = ["generate", "stream", "submit", "cancel", "encode", "embed", "rerank"];

// The first word, and what stands behind the space after it.
function word(line) {
  const space = line.indexOf(" ");
  return space < 0 ? [line, ""] : [line.slice(0, space), line.slice(space + 1)];
}

const unescape = (text) => text.replace(/\\(.)/g, (_, letter) => ({ n: "\n", t: "\t", 0: "\0", "\\": "\\" })[letter]);
const numbers = (text) => text.split(" ").filter(Boolean).map(Number);

function bits(value) {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  return view.getUint32(0).toString(16).padStart(8, "0");
}

const floats = (values) => values && Array.from(values, bits);

const eventLine = (event) => {
  const { choice } = event;
  if (event.type === "finished") return { choice, finish: event.finishReason };
  if (event.type === "tool_call") return { choice, tool: event.toolCall };
  return { choice, channel: event.channel, text: event.text, ids: event.tokenIds, logprobs: floats(event.logprobs) };
};

const choiceLine = (choice) => ({
  text: choice.text,
  reasoning: choice.reasoning,
  ids: choice.tokenIds,
  finish: choice.finishReason,
  stop: choice.stopText,
  logprobs: floats(choice.logprobs),
  top: choice.topLogprobs?.map((row) => row.map(([id, logprob]) => [id, bits(logprob)])) ?? null,
  tools: choice.toolCalls,
});

const answerLine = (answer) => ({
  choices: answer.choices.map(choiceLine),
  prompt_logprobs: floats(answer.promptLogprobs),
  prompt_tokens: answer.stats.promptTokens,
});

const errorLine = (error) => {
  if (!(error instanceof QwenError)) throw error;
  return { error: { code: error.status, message: error.message } };
};

const print = (name, line) => process.stdout.write(`${JSON.stringify({ case: name, ...line })}\n`);

class Case {
  prompt = "";
  options = { raw: true };
  inputs = [];
  instruction = undefined;

  constructor(name) {
    this.name = name;
  }

  add(what, rest) {
    const [key, value] = word(rest);
    const option = (made) => (this.options[key] = made);
    if (what === "text") this.prompt = unescape(rest);
    else if (what === "tokens") this.prompt = Int32Array.from(numbers(rest));
    else if (what === "message") this.prompt = [...this.prompt, { role: key, content: unescape(value) }];
    else if (what === "tools") this.options.tools = JSON.parse(rest);
    else if (what === "input") this.inputs.push(unescape(rest));
    else if (what === "input_tokens") this.inputs.push(numbers(rest));
    else if (what === "instruction") this.instruction = unescape(rest) || null;
    else if (what === "i64" || what === "f64") option(Number(value));
    else if (what === "str") option(unescape(value));
    else if (what === "strs") option(value.split("\t").map(unescape));
    else if (what === "ids") option(numbers(value));
    else if (what === "bias") option(new Map(numbers(value).flatMap((id, i, all) => (i % 2 ? [] : [[id, all[i + 1]]]))));
    else throw new Error(`unknown word: ${what}`);
  }

  async answer(llm, what, rest) {
    const { prompt, options, inputs, instruction } = this;
    if (what === "generate" || what === "submit") return answerLine(await llm.generate(prompt, options).result());
    if (what === "stream") return this.stream(llm.generate(prompt, options));
    if (what === "cancel") return this.cancel(llm.generate(prompt, options));
    if (what === "encode") return { ids: llm.encode(prompt, options) };
    if (what === "rerank") return { scores: floats(await llm.rerank(unescape(rest), inputs, { instruction })) };
    return { embeddings: (await llm.embed(inputs, { instruction, dimensions: Number(rest) })).map(floats) };
  }

  cancel(generation) {
    generation.cancel();
    return this.stream(generation);
  }

  async stream(generation) {
    const events = [];
    for await (const event of generation) events.push(eventLine(event));
    return { events, ...answerLine(await generation.result()) };
  }
}

const llm = await LLM.open(process.argv[2]).catch((error) => {
  print("open", errorLine(error));
  process.exit(1);
});
let now;
let submitted = [];
for (const line of readFileSync(0, "utf8").split("\n")) {
  const [what, rest] = word(line);
  if (what === "" || what.startsWith("#")) continue;
  if (what === "case") now = new Case(rest);
  else if (what === "wait") {
    for (const [name, answer] of submitted.splice(0)) print(name, await answer);
  } else if (ENDS.includes(what)) {
    const answer = now.answer(llm, what, rest).catch(errorLine);
    if (what === "submit") submitted.push([now.name, answer]);
    else print(now.name, await answer);
  } else now.add(what, rest);
}
await llm.close();
