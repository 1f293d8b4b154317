/** Run Qwen models in your process: the library with its one C header, for Node.js 20 and newer. */

/** What the library refused or could not do. Its message names the file, key or value and what would be right. */
export class QwenError extends Error {
  constructor(message: string, status: number, code: string);
  /** The number from qwen.h. */
  readonly status: number;
  /** Its name, such as "QWEN_ERR_NOT_FOUND". */
  readonly code: string;
}

/** Of the library that was loaded. */
export const version: string;

/** Sampling parameters. The library's own table has their defaults and bounds, and is asked: what it refuses is a QwenError. */
export interface SamplingOptions {
  /** Most tokens to generate. */
  max_tokens?: number;
  min_tokens?: number;
  /** 0: always the most likely token. */
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  repetition_penalty?: number;
  frequency_penalty?: number;
  presence_penalty?: number;
  /** The penalties look at the last so many tokens; 0: at all. */
  penalty_window?: number;
  /** Token id -> added to its logit. */
  logit_bias?: Map<number, number> | Record<number, number>;
  stop_token_ids?: readonly number[] | Int32Array;
  /** Texts that end the answer; they are not part of it. */
  stop?: string | readonly string[];
  ignore_eos?: boolean;
  /** Makes sampling repeatable. */
  seed?: number | bigint;
  logprobs?: boolean;
  /** So many of the likeliest tokens at every place, 0 to 20. */
  top_logprobs?: number;
  prompt_logprobs?: boolean;
  /** Thinking before the answer; left out: as the chat template has it. */
  reasoning_mode?: boolean;
  /** Thoughts apart from the answer; left out: where the prompt is a conversation. */
  split_reasoning?: boolean;
  /** Most tokens of thinking; then the thought is ended with reasoning_end_text. */
  reasoning_budget?: number;
  reasoning_end_text?: string;
  /** Answers per prompt. */
  n?: number;
  /** The LoRA adapter that answers. */
  adapter?: string;
  /** Higher ones are begun first. */
  priority?: number;
  /** A request that has not ended by then fails with QWEN_ERR_TIMEOUT. */
  timeout_ms?: number;
}

/** Engine options; their meaning and bounds are the library's. */
export interface EngineOptions {
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  gpu_check?: boolean;
  dtype?: "bf16" | "f32";
  strict?: boolean;
  threads?: number;
  cpu_isa?: string;
  load?: "mmap" | "read";
  context_length?: number;
  kv_cache_bytes?: number;
  max_batch_tokens?: number;
  max_running?: number;
  max_waiting?: number;
  prefix_cache?: boolean;
  cuda_graphs?: boolean;
  cuda_step_ahead?: boolean;
  cuda_dependent_launch?: boolean;
  mtp?: boolean;
  tokenizer?: string;
}

/** In the form of OpenAI's chat interface; every member reaches the chat template. */
export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content?: string | null | readonly { type: "text"; text: string }[];
  [member: string]: unknown;
}

/**
 * A string is one user message where the model has a chat template, and otherwise (or with `raw`) text to be continued. A list is
 * a conversation, or token ids that go in as they are.
 */
export type Prompt = string | readonly Message[] | readonly number[] | Int32Array;

export interface PromptOptions extends SamplingOptions {
  /** A string is text to be continued. */
  raw?: boolean;
  /** The tools the model may call, in OpenAI's form. */
  tools?: readonly object[];
  /** Further variables of the chat template. */
  templateVariables?: object;
}

export interface GenerateOptions extends PromptOptions {
  /** Aborting cancels the request: what waits for it throws the signal's reason. */
  signal?: AbortSignal;
}

export interface ToolCall {
  name: string;
  /** The text of a JSON object. */
  arguments: string;
}

export type FinishReason = "none" | "stop" | "length" | "cancelled" | "error";

/** For each token the likeliest ones at its place as [token id, log-probability], likeliest first. */
export type TopLogprobs = [number, number][][];

/** One step of an answer. `text` is there in each, and empty where nothing is said. */
export type Event =
  | {
      /** New tokens and the text they completed: whole characters, so it may be empty. */
      type: "text";
      choice: number;
      text: string;
      channel: "answer" | "reasoning";
      tokenIds: number[];
      /** Natural logarithms, before temperature; null unless asked for. */
      logprobs: number[] | null;
      topLogprobs: TopLogprobs | null;
    }
  | { type: "tool_call"; choice: number; text: ""; toolCall: ToolCall }
  | { type: "finished"; choice: number; text: ""; finishReason: FinishReason };

export interface Choice {
  text: string;
  /** What the model thought first, "" if nothing. */
  reasoning: string;
  /** Every generated token, the end token included. */
  tokenIds: number[];
  logprobs: number[] | null;
  topLogprobs: TopLogprobs | null;
  toolCalls: ToolCall[];
  finishReason: FinishReason;
  /** Which of the texts in `stop` ended it; null: none did. */
  stopText: string | null;
}

export interface Answer {
  /** Of the first choice. */
  text: string;
  /** As many as the option n says. */
  choices: Choice[];
  /** One per token of the prompt, the first is 0; null unless asked for. */
  promptLogprobs: number[] | null;
  stats: {
    promptTokens: number;
    /** Of the prompt, taken from the prefix cache. */
    cachedTokens: number;
    generatedTokens: number;
    queuedSeconds: number;
    promptSeconds: number;
    generateSeconds: number;
    firstTokenSeconds: number;
    /** The seed that was used: given, or drawn. */
    seed: number;
  };
}

/**
 * An answer under way: `for await (const event of generation)`, once. To leave the loop early cancels the request. Whether
 * anybody reads the events or not, it goes on, and keeps the process running until it ends.
 */
export class Generation implements AsyncIterable<Event> {
  private constructor();
  [Symbol.asyncIterator](): AsyncGenerator<Event, void, void>;
  /** The whole answer, with or without reading the events. */
  result(): Promise<Answer>;
  /** What there was at the end, of a request that failed or was cancelled too; null while it runs. */
  readonly answer: Answer | null;
  /** Takes effect within one step; what waits for it throws QWEN_ERR_CANCELLED. */
  cancel(): void;
  /** The same, but it ends well, with what it has. */
  stop(): void;
  /** Cancels what still runs and waits for its end. */
  [Symbol.asyncDispose](): Promise<void>;
}

export interface ModelInfo {
  readonly architecture: string;
  readonly path: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Longest prompt and answer together, in tokens. */
  readonly contextLength: number;
  readonly parameters: number;
  readonly hasTokenizer: boolean;
  readonly hasChatTemplate: boolean;
}

interface SearchOptions {
  /** What the search is for, in one sentence; null: the library's usual one. */
  instruction?: string | null;
  adapter?: string;
  /** Under 0: behind everybody else's requests. */
  priority?: number;
  timeout_ms?: number;
  signal?: AbortSignal;
}

/** A model that is ready to generate. What is asked of it at the same time is computed together. */
export class LLM {
  private constructor();
  /** Opens the folder of a checkpoint as published, or a GGUF file, on another thread. */
  static open(path: string | URL, options?: EngineOptions & { signal?: AbortSignal }): Promise<LLM>;
  readonly info: ModelInfo;
  /** Starts an answer. Throws what is wrong with the arguments. */
  generate(prompt: Prompt, options?: GenerateOptions): Generation;
  /** The whole answer to a conversation. */
  chat(messages: Prompt, options?: GenerateOptions): Promise<Answer>;
  /** The token ids that generate() would give the model. */
  encode(prompt: Prompt, options?: PromptOptions): number[];
  /**
   * One vector of length 1 per input, a text or token ids. dimensions: keep the first so many values; 0, the default: all.
   * With an instruction the inputs are queries, without one documents.
   */
  embed(
    inputs: readonly (string | readonly number[] | Int32Array)[],
    options?: SearchOptions & { dimensions?: number },
  ): Promise<Float32Array[]>;
  /** For each document the probability that it answers the query. */
  rerank(query: string, documents: readonly string[], options?: SearchOptions): Promise<Float32Array>;
  /** Ends what is under way (QWEN_ERR_CLOSED, of embed and rerank QWEN_ERR_CANCELLED) and frees the model. Any number of times. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
