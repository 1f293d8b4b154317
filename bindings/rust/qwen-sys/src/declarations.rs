// Written by bindings/rust/make_declarations.py from include/qwen.h.

use std::ffi::{c_char, c_void};
use std::mem::{align_of, offset_of, size_of};

use crate::Marker;

pub const QWEN_ABI_VERSION: u32 = 1;

extern "C" {
    pub fn qwen_abi_version() -> u32;
    pub fn qwen_version() -> *const c_char;
    pub fn qwen_build_info() -> *const c_char;
}

pub const QWEN_OK: i32 = 0;
pub const QWEN_ERR_INVALID_ARGUMENT: i32 = 1;
pub const QWEN_ERR_NOT_FOUND: i32 = 2;
pub const QWEN_ERR_IO: i32 = 3;
pub const QWEN_ERR_INVALID_FILE: i32 = 4;
pub const QWEN_ERR_UNSUPPORTED: i32 = 5;
pub const QWEN_ERR_OUT_OF_MEMORY: i32 = 6;
pub const QWEN_ERR_CANCELLED: i32 = 7;
pub const QWEN_ERR_CLOSED: i32 = 8;
pub const QWEN_ERR_TIMEOUT: i32 = 9;
pub const QWEN_ERR_CALLBACK: i32 = 10;
pub const QWEN_ERR_FORKED: i32 = 11;
pub const QWEN_ERR_BUSY: i32 = 12;
pub const QWEN_ERR_INTERNAL: i32 = 13;

#[repr(C)]
pub struct qwen_error {
    _data: [u8; 0],
    _marker: Marker,
}

extern "C" {
    pub fn qwen_error_code(error: *const qwen_error) -> i32;
    pub fn qwen_error_message(error: *const qwen_error) -> *const c_char;
    pub fn qwen_error_free(error: *mut qwen_error);
    pub fn qwen_status_name(status: i32) -> *const c_char;
}

pub const QWEN_LOG_ERROR: i32 = 1;
pub const QWEN_LOG_WARNING: i32 = 2;
pub const QWEN_LOG_INFO: i32 = 3;
pub const QWEN_LOG_DEBUG: i32 = 4;

pub type qwen_log_fn = Option<unsafe extern "C" fn(level: i32, message: *const c_char, length: usize, user: *mut c_void)>;

extern "C" {
    pub fn qwen_log_set(sink: qwen_log_fn, user: *mut c_void, level: i32, error: *mut *mut qwen_error) -> i32;
}

pub const QWEN_OPTION_I64: i32 = 1;
pub const QWEN_OPTION_F64: i32 = 2;
pub const QWEN_OPTION_STR: i32 = 3;
pub const QWEN_OPTION_I32_ARRAY: i32 = 4;
pub const QWEN_OPTION_STR_ARRAY: i32 = 5;
pub const QWEN_OPTION_BIAS: i32 = 6;
pub const QWEN_OPTION_CALLBACK: i32 = 7;

pub const QWEN_SCOPE_ENGINE: i32 = 1;
pub const QWEN_SCOPE_REQUEST: i32 = 2;

#[repr(C)]
pub struct qwen_options {
    _data: [u8; 0],
    _marker: Marker,
}

pub type qwen_callback_fn = Option<unsafe extern "C" fn()>;

pub type qwen_destroy_fn = Option<unsafe extern "C" fn(user: *mut c_void)>;

pub type qwen_progress_fn = Option<unsafe extern "C" fn(fraction: f64, user: *mut c_void) -> i32>;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_step {
    pub struct_size: u32,
    pub sequences: i32,
    pub number: i64,
    pub prompt_rows: i64,
    pub generate_rows: i64,
    pub running: i64,
    pub waiting: i64,
    pub preempted: i64,
    pub cache_blocks_used: i64,
    pub schedule_seconds: f64,
    pub forward_seconds: f64,
    pub sample_seconds: f64,
}

pub type qwen_step_fn = Option<unsafe extern "C" fn(step: *const qwen_step, user: *mut c_void)>;

extern "C" {
    pub fn qwen_options_new(options: *mut *mut qwen_options, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_options_free(options: *mut qwen_options);
    pub fn qwen_options_set_i64(options: *mut qwen_options, key: *const c_char, value: i64, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_options_set_f64(options: *mut qwen_options, key: *const c_char, value: f64, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_options_set_str(options: *mut qwen_options, key: *const c_char, text: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_options_set_i32_array(options: *mut qwen_options, key: *const c_char, values: *const i32, count: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_options_set_str_array(options: *mut qwen_options, key: *const c_char, texts: *const *const c_char, lengths: *const usize, count: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_options_set_bias(options: *mut qwen_options, key: *const c_char, ids: *const i32, biases: *const f32, count: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_options_set_callback(options: *mut qwen_options, key: *const c_char, r#fn: qwen_callback_fn, user: *mut c_void, destroy: qwen_destroy_fn, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_option_info {
    pub struct_size: u32,
    pub r#type: i32,
    pub scope: i32,
    pub has_bounds: i32,
    pub minimum: f64,
    pub maximum: f64,
    pub key: *const c_char,
    pub default_text: *const c_char,
    pub choices: *const c_char,
    pub unit: *const c_char,
    pub help: *const c_char,
}

extern "C" {
    pub fn qwen_option_info_get(index: usize, info: *mut qwen_option_info, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
pub struct qwen_tokenizer {
    _data: [u8; 0],
    _marker: Marker,
}

extern "C" {
    pub fn qwen_tokenizer_open(path: *const c_char, tokenizer: *mut *mut qwen_tokenizer, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_tokenizer_free(tokenizer: *mut qwen_tokenizer);
}

pub const QWEN_ENCODE_PLAIN: u32 = 1;
pub const QWEN_DECODE_SKIP_SPECIAL: u32 = 1;

extern "C" {
    pub fn qwen_tokenizer_encode(tokenizer: *const qwen_tokenizer, text: *const c_char, length: usize, flags: u32, ids: *mut i32, capacity: usize, count: *mut usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_tokenizer_decode(tokenizer: *const qwen_tokenizer, ids: *const i32, count: usize, flags: u32, text: *mut c_char, capacity: usize, length: *mut usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_tokenizer_size(tokenizer: *const qwen_tokenizer) -> i32;
    pub fn qwen_tokenizer_token_id(tokenizer: *const qwen_tokenizer, text: *const c_char, length: usize) -> i32;
}

#[repr(C)]
pub struct qwen_model {
    _data: [u8; 0],
    _marker: Marker,
}

#[repr(C)]
pub struct qwen_weights {
    _data: [u8; 0],
    _marker: Marker,
}

extern "C" {
    pub fn qwen_model_open(path: *const c_char, options: *const qwen_options, model: *mut *mut qwen_model, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_model_retain(model: *const qwen_model);
    pub fn qwen_model_free(model: *mut qwen_model);
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_model_info {
    pub struct_size: u32,
    pub vocab_size: i32,
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    pub head_dim: i32,
    pub has_tokenizer: i32,
    pub has_chat_template: i32,
    pub context_length: i64,
    pub parameters: i64,
    pub weight_bytes: i64,
    pub architecture: *const c_char,
    pub path: *const c_char,
    pub active_parameters: i64,
    pub active_weight_bytes: i64,
    pub active_expert_bytes: i64,
    pub num_experts: i32,
    pub num_experts_per_tok: i32,
    pub cache_token_bytes: i64,
    pub window_token_bytes: i64,
    pub window_tokens: i64,
    pub state_bytes: i64,
}

extern "C" {
    pub fn qwen_model_info_get(model: *const qwen_model, info: *mut qwen_model_info, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_model_tokenizer(model: *const qwen_model) -> *const qwen_tokenizer;
}

pub const QWEN_DTYPE_F32: i32 = 1;
pub const QWEN_DTYPE_F16: i32 = 2;
pub const QWEN_DTYPE_BF16: i32 = 3;

extern "C" {
    pub fn qwen_weights_new(config: *const c_char, length: usize, released: qwen_destroy_fn, user: *mut c_void, weights: *mut *mut qwen_weights, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_weights_add(weights: *mut qwen_weights, name: *const c_char, dtype: i32, shape: *const i64, dimensions: usize, data: *const c_void, bytes: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_weights_free(weights: *mut qwen_weights);
    pub fn qwen_model_from_weights(weights: *const qwen_weights, tokenizer: *const qwen_tokenizer, options: *const qwen_options, model: *mut *mut qwen_model, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
pub struct qwen_engine {
    _data: [u8; 0],
    _marker: Marker,
}

extern "C" {
    pub fn qwen_create(path: *const c_char, options: *const qwen_options, engine: *mut *mut qwen_engine, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_engine_new(model: *const qwen_model, options: *const qwen_options, engine: *mut *mut qwen_engine, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_destroy(engine: *mut qwen_engine);
    pub fn qwen_engine_drain(engine: *mut qwen_engine, timeout_ms: i64, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_engine_model(engine: *const qwen_engine) -> *const qwen_model;
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_engine_stats {
    pub struct_size: u32,
    pub threads: i32,
    pub running: i64,
    pub waiting: i64,
    pub finished: i64,
    pub steps: i64,
    pub prompt_tokens: i64,
    pub generated_tokens: i64,
    pub cache_blocks_total: i64,
    pub cache_blocks_used: i64,
    pub cache_block_tokens: i64,
    pub cache_bytes: i64,
    pub backend: *const c_char,
    pub cached_tokens: i64,
}

extern "C" {
    pub fn qwen_engine_stats_get(engine: *const qwen_engine, stats: *mut qwen_engine_stats, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_counter {
    pub struct_size: u32,
    pub reserved: i32,
    pub value: i64,
    pub name: *const c_char,
}

extern "C" {
    pub fn qwen_engine_counter_get(engine: *const qwen_engine, index: usize, counter: *mut qwen_counter, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_adapter_info {
    pub struct_size: u32,
    pub rank: i32,
    pub parameters: i64,
    pub name: *const c_char,
    pub path: *const c_char,
}

extern "C" {
    pub fn qwen_engine_load_adapter(engine: *mut qwen_engine, path: *const c_char, name: *const c_char, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_engine_unload_adapter(engine: *mut qwen_engine, name: *const c_char, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_engine_adapter_info_get(engine: *const qwen_engine, after: *const c_char, info: *mut qwen_adapter_info, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
pub struct qwen_prompt {
    _data: [u8; 0],
    _marker: Marker,
}

extern "C" {
    pub fn qwen_prompt_new(prompt: *mut *mut qwen_prompt, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_free(prompt: *mut qwen_prompt);
    pub fn qwen_prompt_add_text(prompt: *mut qwen_prompt, text: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_add_tokens(prompt: *mut qwen_prompt, ids: *const i32, count: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_add_message(prompt: *mut qwen_prompt, role: *const c_char, content: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_add_message_json(prompt: *mut qwen_prompt, json: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_set_tools(prompt: *mut qwen_prompt, json: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_set_variables(prompt: *mut qwen_prompt, json: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_render(prompt: *const qwen_prompt, model: *const qwen_model, options: *const qwen_options, text: *mut c_char, capacity: usize, length: *mut usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_prompt_encode(prompt: *const qwen_prompt, model: *const qwen_model, options: *const qwen_options, ids: *mut i32, capacity: usize, count: *mut usize, error: *mut *mut qwen_error) -> i32;
}

pub const QWEN_EVENT_TEXT: i32 = 1;
pub const QWEN_EVENT_FINISHED: i32 = 2;
pub const QWEN_EVENT_DONE: i32 = 3;
pub const QWEN_EVENT_TOOL_CALL: i32 = 4;

pub const QWEN_FINISH_NONE: i32 = 0;
pub const QWEN_FINISH_STOP: i32 = 1;
pub const QWEN_FINISH_LENGTH: i32 = 2;
pub const QWEN_FINISH_CANCELLED: i32 = 3;
pub const QWEN_FINISH_ERROR: i32 = 4;

pub const QWEN_CHANNEL_ANSWER: i32 = 0;
pub const QWEN_CHANNEL_REASONING: i32 = 1;

#[repr(C)]
pub struct qwen_request {
    _data: [u8; 0],
    _marker: Marker,
}

#[repr(C)]
pub struct qwen_queue {
    _data: [u8; 0],
    _marker: Marker,
}

#[repr(C)]
pub struct qwen_result {
    _data: [u8; 0],
    _marker: Marker,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_event {
    pub struct_size: u32,
    pub r#type: i32,
    pub choice: i32,
    pub channel: i32,
    pub finish_reason: i32,
    pub status: i32,
    pub tag: u64,
    pub text: *const c_char,
    pub text_length: usize,
    pub token_ids: *const i32,
    pub logprobs: *const f32,
    pub token_count: usize,
    pub message: *const c_char,
    pub request: *const qwen_request,
    pub tool_name: *const c_char,
    pub tool_name_length: usize,
    pub tool_arguments: *const c_char,
    pub tool_arguments_length: usize,
    pub top_token_ids: *const i32,
    pub top_logprobs: *const f32,
    pub top_count: usize,
}

pub type qwen_event_fn = Option<unsafe extern "C" fn(event: *const qwen_event, user: *mut c_void) -> i32>;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_stats {
    pub struct_size: u32,
    pub reserved: i32,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub generated_tokens: i64,
    pub queued_seconds: f64,
    pub prompt_seconds: f64,
    pub generate_seconds: f64,
    pub first_token_seconds: f64,
    pub seed: u64,
    pub inter_token_p50_seconds: f64,
    pub inter_token_p99_seconds: f64,
    pub inter_token_max_seconds: f64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_choice {
    pub struct_size: u32,
    pub finish_reason: i32,
    pub text: *const c_char,
    pub text_length: usize,
    pub reasoning: *const c_char,
    pub reasoning_length: usize,
    pub token_ids: *const i32,
    pub logprobs: *const f32,
    pub token_count: usize,
    pub tool_call_count: usize,
    pub stop_text: *const c_char,
    pub stop_text_length: usize,
    pub top_token_ids: *const i32,
    pub top_logprobs: *const f32,
    pub top_count: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_tool_call {
    pub struct_size: u32,
    pub reserved: i32,
    pub name: *const c_char,
    pub name_length: usize,
    pub arguments: *const c_char,
    pub arguments_length: usize,
}

extern "C" {
    pub fn qwen_result_choice_count(result: *const qwen_result) -> usize;
    pub fn qwen_result_choice_get(result: *const qwen_result, index: usize, choice: *mut qwen_choice, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_result_tool_call_get(result: *const qwen_result, choice: usize, index: usize, call: *mut qwen_tool_call, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_result_stats_get(result: *const qwen_result, stats: *mut qwen_stats, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_result_prompt_logprobs_get(result: *const qwen_result, logprobs: *mut *const f32, count: *mut usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_result_free(result: *mut qwen_result);
    pub fn qwen_generate(engine: *mut qwen_engine, prompt: *const qwen_prompt, options: *const qwen_options, on_event: qwen_event_fn, user: *mut c_void, result: *mut *mut qwen_result, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_submit(engine: *mut qwen_engine, prompt: *const qwen_prompt, options: *const qwen_options, queue: *mut qwen_queue, tag: u64, request: *mut *mut qwen_request, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_request_next(request: *mut qwen_request, timeout_ms: i64, event: *mut qwen_event, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_request_cancel(request: *mut qwen_request);
    pub fn qwen_request_stop(request: *mut qwen_request);
    pub fn qwen_request_result(request: *const qwen_request, result: *mut *mut qwen_result, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_request_free(request: *mut qwen_request);
    pub fn qwen_queue_new(queue: *mut *mut qwen_queue, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_queue_free(queue: *mut qwen_queue);
    pub fn qwen_queue_fd(queue: *const qwen_queue) -> i32;
    pub fn qwen_queue_next(queue: *mut qwen_queue, timeout_ms: i64, count: *mut usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_queue_event(queue: *const qwen_queue, index: usize, event: *mut qwen_event, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
pub struct qwen_tensors {
    _data: [u8; 0],
    _marker: Marker,
}

pub const QWEN_OUTPUT_LOGITS: u32 = 1;
pub const QWEN_OUTPUT_HIDDEN_STATES: u32 = 2;
pub const QWEN_OUTPUT_MTP_LOGITS: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_tensor {
    pub struct_size: u32,
    pub dtype: i32,
    pub data: *const c_void,
    pub bytes: usize,
    pub dimensions: u64,
    pub shape: [i64; 8],
}

extern "C" {
    pub fn qwen_forward(engine: *mut qwen_engine, token_ids: *const i32, counts: *const usize, first_rows: *const usize, sequences: usize, outputs: u32, options: *const qwen_options, tensors: *mut *mut qwen_tensors, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_tensors_get(tensors: *const qwen_tensors, sequence: usize, name: *const c_char, tensor: *mut qwen_tensor, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_tensors_stats_get(tensors: *const qwen_tensors, stats: *mut qwen_stats, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_tensors_free(tensors: *mut qwen_tensors);
}

#[repr(C)]
pub struct qwen_inputs {
    _data: [u8; 0],
    _marker: Marker,
}

pub const QWEN_INPUTS_SPECIAL: u32 = 1;

extern "C" {
    pub fn qwen_inputs_new(flags: u32, inputs: *mut *mut qwen_inputs, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_inputs_free(inputs: *mut qwen_inputs);
    pub fn qwen_inputs_add_text(inputs: *mut qwen_inputs, text: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_inputs_add_tokens(inputs: *mut qwen_inputs, ids: *const i32, count: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_inputs_set_instruction(inputs: *mut qwen_inputs, text: *const c_char, length: usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_inputs_encode(inputs: *const qwen_inputs, index: usize, query: *const c_char, query_length: usize, model: *const qwen_model, ids: *mut i32, capacity: usize, count: *mut usize, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_embed(engine: *mut qwen_engine, inputs: *const qwen_inputs, dimensions: i64, options: *const qwen_options, progress: qwen_progress_fn, user: *mut c_void, tensors: *mut *mut qwen_tensors, error: *mut *mut qwen_error) -> i32;
    pub fn qwen_rerank(engine: *mut qwen_engine, query: *const c_char, query_length: usize, inputs: *const qwen_inputs, options: *const qwen_options, progress: qwen_progress_fn, user: *mut c_void, tensors: *mut *mut qwen_tensors, error: *mut *mut qwen_error) -> i32;
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qwen_machine {
    pub struct_size: u32,
    pub threads: i32,
    pub read_bytes_per_second: f64,
    pub flops_per_second: f64,
    pub buffer_bytes: i64,
    pub level: *const c_char,
    pub dtype: *const c_char,
}

extern "C" {
    pub fn qwen_measure_machine(options: *const qwen_options, machine: *mut qwen_machine, error: *mut *mut qwen_error) -> i32;
}

const _: () = {
    assert!(offset_of!(qwen_adapter_info, struct_size) == 0);
    assert!(offset_of!(qwen_adapter_info, rank) == 4);
    assert!(offset_of!(qwen_adapter_info, parameters) == 8);
    assert!(offset_of!(qwen_adapter_info, name) == 16);
    assert!(offset_of!(qwen_adapter_info, path) == 24);
    assert!(size_of::<qwen_adapter_info>() == 32 && align_of::<qwen_adapter_info>() == 8);
    assert!(offset_of!(qwen_choice, struct_size) == 0);
    assert!(offset_of!(qwen_choice, finish_reason) == 4);
    assert!(offset_of!(qwen_choice, text) == 8);
    assert!(offset_of!(qwen_choice, text_length) == 16);
    assert!(offset_of!(qwen_choice, reasoning) == 24);
    assert!(offset_of!(qwen_choice, reasoning_length) == 32);
    assert!(offset_of!(qwen_choice, token_ids) == 40);
    assert!(offset_of!(qwen_choice, logprobs) == 48);
    assert!(offset_of!(qwen_choice, token_count) == 56);
    assert!(offset_of!(qwen_choice, tool_call_count) == 64);
    assert!(offset_of!(qwen_choice, stop_text) == 72);
    assert!(offset_of!(qwen_choice, stop_text_length) == 80);
    assert!(offset_of!(qwen_choice, top_token_ids) == 88);
    assert!(offset_of!(qwen_choice, top_logprobs) == 96);
    assert!(offset_of!(qwen_choice, top_count) == 104);
    assert!(size_of::<qwen_choice>() == 112 && align_of::<qwen_choice>() == 8);
    assert!(offset_of!(qwen_counter, struct_size) == 0);
    assert!(offset_of!(qwen_counter, reserved) == 4);
    assert!(offset_of!(qwen_counter, value) == 8);
    assert!(offset_of!(qwen_counter, name) == 16);
    assert!(size_of::<qwen_counter>() == 24 && align_of::<qwen_counter>() == 8);
    assert!(offset_of!(qwen_engine_stats, struct_size) == 0);
    assert!(offset_of!(qwen_engine_stats, threads) == 4);
    assert!(offset_of!(qwen_engine_stats, running) == 8);
    assert!(offset_of!(qwen_engine_stats, waiting) == 16);
    assert!(offset_of!(qwen_engine_stats, finished) == 24);
    assert!(offset_of!(qwen_engine_stats, steps) == 32);
    assert!(offset_of!(qwen_engine_stats, prompt_tokens) == 40);
    assert!(offset_of!(qwen_engine_stats, generated_tokens) == 48);
    assert!(offset_of!(qwen_engine_stats, cache_blocks_total) == 56);
    assert!(offset_of!(qwen_engine_stats, cache_blocks_used) == 64);
    assert!(offset_of!(qwen_engine_stats, cache_block_tokens) == 72);
    assert!(offset_of!(qwen_engine_stats, cache_bytes) == 80);
    assert!(offset_of!(qwen_engine_stats, backend) == 88);
    assert!(offset_of!(qwen_engine_stats, cached_tokens) == 96);
    assert!(size_of::<qwen_engine_stats>() == 104 && align_of::<qwen_engine_stats>() == 8);
    assert!(offset_of!(qwen_event, struct_size) == 0);
    assert!(offset_of!(qwen_event, r#type) == 4);
    assert!(offset_of!(qwen_event, choice) == 8);
    assert!(offset_of!(qwen_event, channel) == 12);
    assert!(offset_of!(qwen_event, finish_reason) == 16);
    assert!(offset_of!(qwen_event, status) == 20);
    assert!(offset_of!(qwen_event, tag) == 24);
    assert!(offset_of!(qwen_event, text) == 32);
    assert!(offset_of!(qwen_event, text_length) == 40);
    assert!(offset_of!(qwen_event, token_ids) == 48);
    assert!(offset_of!(qwen_event, logprobs) == 56);
    assert!(offset_of!(qwen_event, token_count) == 64);
    assert!(offset_of!(qwen_event, message) == 72);
    assert!(offset_of!(qwen_event, request) == 80);
    assert!(offset_of!(qwen_event, tool_name) == 88);
    assert!(offset_of!(qwen_event, tool_name_length) == 96);
    assert!(offset_of!(qwen_event, tool_arguments) == 104);
    assert!(offset_of!(qwen_event, tool_arguments_length) == 112);
    assert!(offset_of!(qwen_event, top_token_ids) == 120);
    assert!(offset_of!(qwen_event, top_logprobs) == 128);
    assert!(offset_of!(qwen_event, top_count) == 136);
    assert!(size_of::<qwen_event>() == 144 && align_of::<qwen_event>() == 8);
    assert!(offset_of!(qwen_machine, struct_size) == 0);
    assert!(offset_of!(qwen_machine, threads) == 4);
    assert!(offset_of!(qwen_machine, read_bytes_per_second) == 8);
    assert!(offset_of!(qwen_machine, flops_per_second) == 16);
    assert!(offset_of!(qwen_machine, buffer_bytes) == 24);
    assert!(offset_of!(qwen_machine, level) == 32);
    assert!(offset_of!(qwen_machine, dtype) == 40);
    assert!(size_of::<qwen_machine>() == 48 && align_of::<qwen_machine>() == 8);
    assert!(offset_of!(qwen_model_info, struct_size) == 0);
    assert!(offset_of!(qwen_model_info, vocab_size) == 4);
    assert!(offset_of!(qwen_model_info, hidden_size) == 8);
    assert!(offset_of!(qwen_model_info, num_hidden_layers) == 12);
    assert!(offset_of!(qwen_model_info, num_attention_heads) == 16);
    assert!(offset_of!(qwen_model_info, num_key_value_heads) == 20);
    assert!(offset_of!(qwen_model_info, head_dim) == 24);
    assert!(offset_of!(qwen_model_info, has_tokenizer) == 28);
    assert!(offset_of!(qwen_model_info, has_chat_template) == 32);
    assert!(offset_of!(qwen_model_info, context_length) == 40);
    assert!(offset_of!(qwen_model_info, parameters) == 48);
    assert!(offset_of!(qwen_model_info, weight_bytes) == 56);
    assert!(offset_of!(qwen_model_info, architecture) == 64);
    assert!(offset_of!(qwen_model_info, path) == 72);
    assert!(offset_of!(qwen_model_info, active_parameters) == 80);
    assert!(offset_of!(qwen_model_info, active_weight_bytes) == 88);
    assert!(offset_of!(qwen_model_info, active_expert_bytes) == 96);
    assert!(offset_of!(qwen_model_info, num_experts) == 104);
    assert!(offset_of!(qwen_model_info, num_experts_per_tok) == 108);
    assert!(offset_of!(qwen_model_info, cache_token_bytes) == 112);
    assert!(offset_of!(qwen_model_info, window_token_bytes) == 120);
    assert!(offset_of!(qwen_model_info, window_tokens) == 128);
    assert!(offset_of!(qwen_model_info, state_bytes) == 136);
    assert!(size_of::<qwen_model_info>() == 144 && align_of::<qwen_model_info>() == 8);
    assert!(offset_of!(qwen_option_info, struct_size) == 0);
    assert!(offset_of!(qwen_option_info, r#type) == 4);
    assert!(offset_of!(qwen_option_info, scope) == 8);
    assert!(offset_of!(qwen_option_info, has_bounds) == 12);
    assert!(offset_of!(qwen_option_info, minimum) == 16);
    assert!(offset_of!(qwen_option_info, maximum) == 24);
    assert!(offset_of!(qwen_option_info, key) == 32);
    assert!(offset_of!(qwen_option_info, default_text) == 40);
    assert!(offset_of!(qwen_option_info, choices) == 48);
    assert!(offset_of!(qwen_option_info, unit) == 56);
    assert!(offset_of!(qwen_option_info, help) == 64);
    assert!(size_of::<qwen_option_info>() == 72 && align_of::<qwen_option_info>() == 8);
    assert!(offset_of!(qwen_stats, struct_size) == 0);
    assert!(offset_of!(qwen_stats, reserved) == 4);
    assert!(offset_of!(qwen_stats, prompt_tokens) == 8);
    assert!(offset_of!(qwen_stats, cached_tokens) == 16);
    assert!(offset_of!(qwen_stats, generated_tokens) == 24);
    assert!(offset_of!(qwen_stats, queued_seconds) == 32);
    assert!(offset_of!(qwen_stats, prompt_seconds) == 40);
    assert!(offset_of!(qwen_stats, generate_seconds) == 48);
    assert!(offset_of!(qwen_stats, first_token_seconds) == 56);
    assert!(offset_of!(qwen_stats, seed) == 64);
    assert!(offset_of!(qwen_stats, inter_token_p50_seconds) == 72);
    assert!(offset_of!(qwen_stats, inter_token_p99_seconds) == 80);
    assert!(offset_of!(qwen_stats, inter_token_max_seconds) == 88);
    assert!(size_of::<qwen_stats>() == 96 && align_of::<qwen_stats>() == 8);
    assert!(offset_of!(qwen_step, struct_size) == 0);
    assert!(offset_of!(qwen_step, sequences) == 4);
    assert!(offset_of!(qwen_step, number) == 8);
    assert!(offset_of!(qwen_step, prompt_rows) == 16);
    assert!(offset_of!(qwen_step, generate_rows) == 24);
    assert!(offset_of!(qwen_step, running) == 32);
    assert!(offset_of!(qwen_step, waiting) == 40);
    assert!(offset_of!(qwen_step, preempted) == 48);
    assert!(offset_of!(qwen_step, cache_blocks_used) == 56);
    assert!(offset_of!(qwen_step, schedule_seconds) == 64);
    assert!(offset_of!(qwen_step, forward_seconds) == 72);
    assert!(offset_of!(qwen_step, sample_seconds) == 80);
    assert!(size_of::<qwen_step>() == 88 && align_of::<qwen_step>() == 8);
    assert!(offset_of!(qwen_tensor, struct_size) == 0);
    assert!(offset_of!(qwen_tensor, dtype) == 4);
    assert!(offset_of!(qwen_tensor, data) == 8);
    assert!(offset_of!(qwen_tensor, bytes) == 16);
    assert!(offset_of!(qwen_tensor, dimensions) == 24);
    assert!(offset_of!(qwen_tensor, shape) == 32);
    assert!(size_of::<qwen_tensor>() == 96 && align_of::<qwen_tensor>() == 8);
    assert!(offset_of!(qwen_tool_call, struct_size) == 0);
    assert!(offset_of!(qwen_tool_call, reserved) == 4);
    assert!(offset_of!(qwen_tool_call, name) == 8);
    assert!(offset_of!(qwen_tool_call, name_length) == 16);
    assert!(offset_of!(qwen_tool_call, arguments) == 24);
    assert!(offset_of!(qwen_tool_call, arguments_length) == 32);
    assert!(size_of::<qwen_tool_call>() == 40 && align_of::<qwen_tool_call>() == 8);
};
