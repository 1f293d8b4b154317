/* The host in C: reads cases from standard input, prints one line of JSON for each (README.md has both formats).
 *
 *     cc host.c $(pkg-config --cflags --libs qwen) -o host
 *     ./host path/to/model < cases/demo.txt
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <qwen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 }; /* ids of a list, texts of a list, requests under way */

typedef struct {
  char *name;
  qwen_prompt *prompt;
  qwen_inputs *inputs;
  qwen_options *options;
  qwen_request *request;
  qwen_error *error; /* the first failure; what follows it in the case is not done */
  int32_t status;    /* the same, of a request that failed on its way: how its last event says it ended */
  char *message;
} Case;

static qwen_engine *engine;

/* ------------------------------------------------------------------ reading */

static void give_up(const char *what, const char *line) {
  fprintf(stderr, "host.c: %s: %s\n", what, line);
  exit(2);
}

/* Cuts off the first word; *rest goes on after the space, or is empty. */
static char *word(char **rest) {
  char *first = *rest, *space = strchr(first, ' ');
  *rest = space ? space + 1 : first + strlen(first);
  if (space) *space = '\0';
  return first;
}

/* Replaces the escapes of a TEXT where it stands; returns its length, which a NUL in it does not end. */
static size_t unescape(char *text) {
  char *to = text;
  for (const char *from = text; *from; ++from) {
    if (*from != '\\') *to++ = *from;
    else switch (*++from) {
      case 'n': *to++ = '\n'; break;
      case 't': *to++ = '\t'; break;
      case '0': *to++ = '\0'; break;
      case '\\': *to++ = '\\'; break;
      default: give_up("unknown escape", text);
    }
  }
  *to = '\0';
  return (size_t)(to - text);
}

static size_t numbers(char *rest, int32_t *ids) {
  size_t count = 0;
  while (*rest) {
    if (count == MOST) give_up("too many ids", rest);
    ids[count++] = (int32_t)strtol(word(&rest), NULL, 10);
  }
  return count;
}

static int set_texts(Case *c, const char *key, char *rest) {
  const char *texts[MOST];
  size_t lengths[MOST], count = 0;
  for (char *text = strtok(rest, "\t"); text; text = strtok(NULL, "\t")) {
    if (count == MOST) give_up("too many texts", text);
    texts[count] = text;
    lengths[count++] = unescape(text);
  }
  return qwen_options_set_str_array(c->options, key, texts, lengths, count, &c->error);
}

static int set_bias(Case *c, const char *key, char *rest) {
  int32_t ids[MOST];
  float biases[MOST];
  size_t count = 0;
  while (*rest) {
    if (count == MOST) give_up("too many biases", rest);
    ids[count] = (int32_t)strtol(word(&rest), NULL, 10);
    biases[count++] = strtof(word(&rest), NULL);
  }
  return qwen_options_set_bias(c->options, key, ids, biases, count, &c->error);
}

/* A line of a case that adds to it. */
static int add(Case *c, const char *what, char *rest) {
  int32_t ids[MOST];
  if (!strcmp(what, "text")) return qwen_prompt_add_text(c->prompt, rest, unescape(rest), &c->error);
  if (!strcmp(what, "tokens")) return qwen_prompt_add_tokens(c->prompt, ids, numbers(rest, ids), &c->error);
  if (!strcmp(what, "tools")) return qwen_prompt_set_tools(c->prompt, rest, strlen(rest), &c->error);
  if (!strcmp(what, "input")) return qwen_inputs_add_text(c->inputs, rest, unescape(rest), &c->error);
  if (!strcmp(what, "input_tokens")) return qwen_inputs_add_tokens(c->inputs, ids, numbers(rest, ids), &c->error);
  if (!strcmp(what, "instruction"))
    return qwen_inputs_set_instruction(c->inputs, *rest ? rest : NULL, unescape(rest), &c->error);
  const char *key = word(&rest); /* of the others this is the first argument */
  if (!strcmp(what, "message")) return qwen_prompt_add_message(c->prompt, key, rest, unescape(rest), &c->error);
  if (!strcmp(what, "i64")) return qwen_options_set_i64(c->options, key, strtoll(rest, NULL, 10), &c->error);
  if (!strcmp(what, "f64")) return qwen_options_set_f64(c->options, key, strtod(rest, NULL), &c->error);
  if (!strcmp(what, "str")) return qwen_options_set_str(c->options, key, rest, unescape(rest), &c->error);
  if (!strcmp(what, "ids")) return qwen_options_set_i32_array(c->options, key, ids, numbers(rest, ids), &c->error);
  if (!strcmp(what, "strs")) return set_texts(c, key, rest);
  if (!strcmp(what, "bias")) return set_bias(c, key, rest);
  give_up("unknown word", what);
  return 0;
}

/* ------------------------------------------------------------------ writing */

static FILE *line; /* what the case prints: in memory, as an error may yet take its place */

static void write_text(const char *text, size_t length) {
  if (!text) {
    fprintf(line, "null");
    return;
  }
  fputc('"', line);
  for (size_t i = 0; i < length; ++i) {
    static const char specials[] = "\b\t\n\f\r\"\\";
    const unsigned char byte = (unsigned char)text[i];
    const char *special = byte ? strchr(specials, byte) : NULL;
    if (special) fprintf(line, "\\%c", "btnfr\"\\"[special - specials]);
    else if (byte < 0x20) fprintf(line, "\\u%04x", byte);
    else fputc(byte, line);
  }
  fputc('"', line);
}

static void write_ids(const int32_t *ids, size_t count) {
  fputc('[', line);
  for (size_t i = 0; i < count; ++i) fprintf(line, "%s%" PRId32, i ? "," : "", ids[i]);
  fputc(']', line);
}

static void write_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  fprintf(line, "\"%08" PRIx32 "\"", bits);
}

static void write_floats(const float *values, size_t count) {
  if (!values) {
    fprintf(line, "null");
    return;
  }
  fputc('[', line);
  for (size_t i = 0; i < count; ++i) {
    if (i) fputc(',', line);
    write_float(values[i]);
  }
  fputc(']', line);
}

static void write_top(const qwen_choice *choice) {
  if (!choice->top_logprobs) {
    fprintf(line, "null");
    return;
  }
  fputc('[', line);
  for (size_t i = 0; i < choice->token_count; ++i) {
    fprintf(line, i ? ",[" : "[");
    for (size_t place = 0; place < choice->top_count; ++place) {
      const size_t at = i * choice->top_count + place;
      fprintf(line, "%s[%" PRId32 ",", place ? "," : "", choice->top_token_ids[at]);
      write_float(choice->top_logprobs[at]);
      fputc(']', line);
    }
    fputc(']', line);
  }
  fputc(']', line);
}

static void write_tool(const char *name, size_t name_length, const char *arguments, size_t arguments_length) {
  fprintf(line, "{\"name\":");
  write_text(name, name_length);
  fprintf(line, ",\"arguments\":");
  write_text(arguments, arguments_length);
  fputc('}', line);
}

static const char *finish(int32_t reason) {
  static const char *names[] = {"none", "stop", "length", "cancelled", "error"};
  return names[reason];
}

static void write_event(const qwen_event *event) {
  fprintf(line, "{\"choice\":%" PRId32, event->choice);
  if (event->type == QWEN_EVENT_FINISHED) {
    fprintf(line, ",\"finish\":\"%s\"", finish(event->finish_reason));
  } else if (event->type == QWEN_EVENT_TOOL_CALL) {
    fprintf(line, ",\"tool\":");
    write_tool(event->tool_name, event->tool_name_length, event->tool_arguments, event->tool_arguments_length);
  } else {
    fprintf(line, ",\"channel\":\"%s\",\"text\":", event->channel == QWEN_CHANNEL_REASONING ? "reasoning" : "answer");
    write_text(event->text, event->text_length);
    fprintf(line, ",\"ids\":");
    write_ids(event->token_ids, event->token_count);
    fprintf(line, ",\"logprobs\":");
    write_floats(event->logprobs, event->token_count);
  }
  fputc('}', line);
}

static int write_choice(const qwen_result *result, size_t index, qwen_error **error) {
  qwen_choice choice = {.struct_size = sizeof choice};
  qwen_tool_call call = {.struct_size = sizeof call};
  if (qwen_result_choice_get(result, index, &choice, error)) return 1;
  fprintf(line, "%s{\"text\":", index ? "," : "");
  write_text(choice.text, choice.text_length);
  fprintf(line, ",\"reasoning\":");
  write_text(choice.reasoning, choice.reasoning_length);
  fprintf(line, ",\"ids\":");
  write_ids(choice.token_ids, choice.token_count);
  fprintf(line, ",\"finish\":\"%s\",\"stop\":", finish(choice.finish_reason));
  write_text(choice.stop_text, choice.stop_text_length);
  fprintf(line, ",\"logprobs\":");
  write_floats(choice.logprobs, choice.token_count);
  fprintf(line, ",\"top\":");
  write_top(&choice);
  fprintf(line, ",\"tools\":[");
  for (size_t i = 0; i < choice.tool_call_count; ++i) {
    if (qwen_result_tool_call_get(result, index, i, &call, error)) return 1;
    if (i) fputc(',', line);
    write_tool(call.name, call.name_length, call.arguments, call.arguments_length);
  }
  fprintf(line, "]}");
  return 0;
}

/* Frees the result. */
static int write_result(qwen_result *result, qwen_error **error) {
  qwen_stats stats = {.struct_size = sizeof stats};
  const float *logprobs = NULL;
  size_t count = 0;
  int failed = 0;
  fprintf(line, ",\"choices\":[");
  for (size_t i = 0; i < qwen_result_choice_count(result) && !failed; ++i) failed = write_choice(result, i, error);
  failed = failed || qwen_result_prompt_logprobs_get(result, &logprobs, &count, error) ||
           qwen_result_stats_get(result, &stats, error);
  fprintf(line, "],\"prompt_logprobs\":");
  write_floats(logprobs, count);
  fprintf(line, ",\"prompt_tokens\":%" PRId64, stats.prompt_tokens);
  qwen_result_free(result);
  return failed;
}

static int write_tensor(const qwen_tensors *tensors, const char *name, qwen_error **error) {
  qwen_tensor tensor = {.struct_size = sizeof tensor};
  if (qwen_tensors_get(tensors, 0, name, &tensor, error)) return 1;
  fprintf(line, ",\"%s\":", name);
  if (tensor.dimensions == 1) {
    write_floats(tensor.data, (size_t)tensor.shape[0]);
    return 0;
  }
  fputc('[', line);
  for (int64_t row = 0; row < tensor.shape[0]; ++row) {
    if (row) fputc(',', line);
    write_floats((const float *)tensor.data + row * tensor.shape[1], (size_t)tensor.shape[1]);
  }
  fputc(']', line);
  return 0;
}

/* ------------------------------------------------------------------ cases */

static void begin(Case *c, const char *name) {
  memset(c, 0, sizeof *c);
  c->name = strdup(name);
  (void)(qwen_prompt_new(&c->prompt, &c->error) || qwen_inputs_new(0, &c->inputs, &c->error) ||
         qwen_options_new(&c->options, &c->error));
}

static void end(Case *c) {
  qwen_request_free(c->request);
  qwen_options_free(c->options);
  qwen_inputs_free(c->inputs);
  qwen_prompt_free(c->prompt);
  qwen_error_free(c->error);
  free(c->message);
  free(c->name);
}

static int submit(Case *c) {
  return qwen_submit(engine, c->prompt, c->options, NULL, 0, &c->request, &c->error);
}

/* Reads the request to its end. */
static int take_events(Case *c, int write) {
  qwen_event event = {.struct_size = sizeof event};
  for (int first = 1;; first = 0) {
    if (qwen_request_next(c->request, -1, &event, &c->error)) return 1;
    if (event.type == QWEN_EVENT_DONE) break;
    if (write && !first) fputc(',', line);
    if (write) write_event(&event);
  }
  c->status = event.status;
  c->message = strdup(event.message);
  return event.status;
}

static int write_answer(Case *c) {
  qwen_result *result = NULL;
  return qwen_request_result(c->request, &result, &c->error) || write_result(result, &c->error);
}

static int generate(Case *c) {
  qwen_result *result = NULL;
  return qwen_generate(engine, c->prompt, c->options, NULL, NULL, &result, &c->error) || write_result(result, &c->error);
}

static int stream(Case *c) {
  fprintf(line, ",\"events\":[");
  if (submit(c) || take_events(c, 1)) return 1;
  fputc(']', line);
  return write_answer(c);
}

static int cancel(Case *c) {
  if (submit(c)) return 1;
  qwen_request_cancel(c->request);
  return take_events(c, 0) || write_answer(c);
}

static int encode(Case *c) {
  int32_t ids[4096];
  size_t count = 0;
  if (qwen_prompt_encode(c->prompt, qwen_engine_model(engine), c->options, ids, 4096, &count, &c->error)) return 1;
  if (count > 4096) give_up("more than 4096 tokens", c->name);
  fprintf(line, ",\"ids\":");
  write_ids(ids, count);
  return 0;
}

static int embed(Case *c, int64_t dimensions) {
  qwen_tensors *tensors = NULL;
  int failed = qwen_embed(engine, c->inputs, dimensions, c->options, NULL, NULL, &tensors, &c->error) ||
               write_tensor(tensors, "embeddings", &c->error);
  qwen_tensors_free(tensors);
  return failed;
}

static int rerank(Case *c, char *query) {
  qwen_tensors *tensors = NULL;
  int failed = qwen_rerank(engine, query, unescape(query), c->inputs, c->options, NULL, NULL, &tensors, &c->error) ||
               write_tensor(tensors, "scores", &c->error);
  qwen_tensors_free(tensors);
  return failed;
}

/* Does what the last line of a case says and prints its line. */
static void answer(Case *c, const char *what, char *rest) {
  char *text = NULL;
  size_t length = 0;
  line = open_memstream(&text, &length);
  if (c->error) (void)0;
  else if (!strcmp(what, "generate")) generate(c);
  else if (!strcmp(what, "stream")) stream(c);
  else if (!strcmp(what, "cancel")) cancel(c);
  else if (!strcmp(what, "wait")) (void)(take_events(c, 0) || write_answer(c));
  else if (!strcmp(what, "encode")) encode(c);
  else if (!strcmp(what, "embed")) embed(c, strtoll(rest, NULL, 10));
  else if (!strcmp(what, "rerank")) rerank(c, rest);
  if (c->error || c->status) {
    const char *message = c->error ? qwen_error_message(c->error) : c->message;
    rewind(line);
    fprintf(line, ",\"error\":{\"code\":%" PRId32 ",\"message\":", c->error ? qwen_error_code(c->error) : c->status);
    write_text(message, strlen(message));
    fputc('}', line);
  }
  fclose(line);
  printf("{\"case\":\"%s\"%.*s}\n", c->name, (int)length, text);
  free(text);
  end(c);
}

static int is_end(const char *what) {
  static const char *ends[] = {"generate", "stream", "cancel", "encode", "embed", "rerank"};
  for (size_t i = 0; i < sizeof ends / sizeof *ends; ++i)
    if (!strcmp(what, ends[i])) return 1;
  return 0;
}

int main(int argc, char **argv) {
  Case now = {0}, submitted[MOST];
  size_t submitted_count = 0, room = 0;
  char *read = NULL, none[] = "";
  if (argc != 2) return fprintf(stderr, "usage: %s MODEL_FOLDER < CASES\n", argv[0]), 2;
  if (qwen_create(argv[1], NULL, &engine, &now.error)) {
    now.name = strdup("open");
    answer(&now, "open", none);
    return 1;
  }
  while (getline(&read, &room, stdin) >= 0) {
    char *rest = read;
    read[strcspn(read, "\n")] = '\0';
    if (!*read || *read == '#') continue;
    const char *what = word(&rest);
    if (!strcmp(what, "case")) {
      begin(&now, rest);
    } else if (!strcmp(what, "submit")) {
      if (submitted_count == MOST) give_up("too many requests at once", now.name);
      if (!now.error) submit(&now);
      submitted[submitted_count++] = now;
    } else if (!strcmp(what, "wait")) {
      for (size_t i = 0; i < submitted_count; ++i) answer(&submitted[i], what, none);
      submitted_count = 0;
    } else if (is_end(what)) {
      answer(&now, what, rest);
    } else if (!now.error) {
      add(&now, what, rest);
    }
  }
  free(read);
  qwen_destroy(engine);
  return 0;
}
