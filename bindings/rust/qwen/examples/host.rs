//! The host in Rust: reads cases from standard input, prints one line of JSON for each (tests/hosts/README.md has both formats).
//!
//!     cargo run --example host -- path/to/model < ../../tests/hosts/cases/demo.txt

use std::io::{BufRead, Write};

use qwen::{Answer, Choice, Engine, Error, Event, FinishReason, Inputs, Options, Prompt, Request, Result, ToolCall};

// -------------------------------------------------------------------- reading

/// The first word, and what stands behind the space after it.
fn word(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

fn unescape(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::new();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                Some('\\') => '\\',
                other => panic!("unknown escape {other:?} in {text}"),
            },
            other => other,
        });
    }
    plain
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn numbers(text: &str) -> Vec<i32> {
    text.split_whitespace().map(number).collect()
}

fn biases(text: &str) -> Vec<(i32, f32)> {
    let parts: Vec<&str> = text.split(' ').collect();
    parts.chunks_exact(2).map(|pair| (number(pair[0]), number(pair[1]))).collect()
}

// -------------------------------------------------------------------- writing

fn text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\u{8}' => quoted.push_str("\\b"),
            '\t' => quoted.push_str("\\t"),
            '\n' => quoted.push_str("\\n"),
            '\u{c}' => quoted.push_str("\\f"),
            '\r' => quoted.push_str("\\r"),
            '\0'..='\u{1f}' => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => quoted.push(letter),
        }
    }
    quoted + "\""
}

fn float(number: &f32) -> String {
    format!("\"{:08x}\"", number.to_bits())
}

fn list<T>(items: impl IntoIterator<Item = T>, write: impl Fn(T) -> String) -> String {
    format!("[{}]", items.into_iter().map(write).collect::<Vec<_>>().join(","))
}

fn ids(ids: &[i32]) -> String {
    list(ids, i32::to_string)
}

fn floats(numbers: &[f32]) -> String {
    if numbers.is_empty() {
        "null".into()
    } else {
        list(numbers, float)
    }
}

fn top(rows: &[Vec<(i32, f32)>]) -> String {
    if rows.is_empty() {
        return "null".into();
    }
    list(rows, |row| list(row, |(id, logprob)| format!("[{id},{}]", float(logprob))))
}

fn tool(call: &ToolCall) -> String {
    format!("{{\"name\":{},\"arguments\":{}}}", text(&call.name), text(&call.arguments))
}

fn finish(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Error => "error",
        _ => "none",
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::Text { choice, reasoning, text: said, token_ids, logprobs, .. } => format!(
            "{{\"choice\":{choice},\"channel\":\"{}\",\"text\":{},\"ids\":{},\"logprobs\":{}}}",
            if *reasoning { "reasoning" } else { "answer" },
            text(said),
            ids(token_ids),
            floats(&logprobs.tokens)
        ),
        Event::ToolCall { choice, call, .. } => format!("{{\"choice\":{choice},\"tool\":{}}}", tool(call)),
        Event::Finished { choice, reason, .. } => format!("{{\"choice\":{choice},\"finish\":\"{}\"}}", finish(*reason)),
        other => panic!("{other:?}"),
    }
}

fn choice(choice: &Choice) -> String {
    format!(
        "{{\"text\":{},\"reasoning\":{},\"ids\":{},\"finish\":\"{}\",\"stop\":{},\"logprobs\":{},\"top\":{},\"tools\":{}}}",
        text(&choice.text),
        text(&choice.reasoning),
        ids(&choice.token_ids),
        finish(choice.finish_reason),
        choice.stop_text.as_deref().map_or("null".into(), text),
        floats(&choice.logprobs.tokens),
        top(&choice.logprobs.top),
        list(&choice.tool_calls, tool)
    )
}

fn answer(answer: &Answer) -> String {
    format!(
        ",\"choices\":{},\"prompt_logprobs\":{},\"prompt_tokens\":{}",
        list(&answer.choices, choice),
        floats(&answer.prompt_logprobs),
        answer.stats.prompt_tokens
    )
}

fn print(name: &str, outcome: Result<String>) {
    let rest =
        outcome.unwrap_or_else(|error: Error| format!(",\"error\":{{\"code\":{},\"message\":{}}}", error.code(), text(&error.to_string())));
    writeln!(std::io::stdout(), "{{\"case\":{}{rest}}}", text(name)).expect("standard output is open");
}

// -------------------------------------------------------------------- cases

struct Parts {
    prompt: Prompt,
    inputs: Inputs,
    options: Options,
}

impl Parts {
    fn new() -> Result<Self> {
        Ok(Parts { prompt: Prompt::new()?, inputs: Inputs::new()?, options: Options::new() })
    }

    /// With a line of the case added.
    fn add(self, what: &str, rest: &str) -> Result<Self> {
        let Parts { prompt, inputs, options } = self;
        let (key, value) = word(rest);
        Ok(match what {
            "text" => Parts { prompt: prompt.text(&unescape(rest))?, inputs, options },
            "tokens" => Parts { prompt: prompt.tokens(&numbers(rest))?, inputs, options },
            "message" => Parts { prompt: prompt.message(key, &unescape(value))?, inputs, options },
            "tools" => Parts { prompt: prompt.tools(rest)?, inputs, options },
            "input" => Parts { inputs: inputs.text(&unescape(rest))?, prompt, options },
            "input_tokens" => Parts { inputs: inputs.tokens(&numbers(rest))?, prompt, options },
            "instruction" => {
                let instruction = unescape(rest);
                Parts { inputs: inputs.instruction(Some(&*instruction).filter(|text| !text.is_empty()))?, prompt, options }
            }
            "i64" => Parts { options: options.set(key, number::<i64>(value)), prompt, inputs },
            "f64" => Parts { options: options.set(key, number::<f64>(value)), prompt, inputs },
            "str" => Parts { options: options.set(key, unescape(value)), prompt, inputs },
            "strs" => {
                let texts: Vec<String> = value.split('\t').map(unescape).collect();
                Parts { options: options.set(key, texts), prompt, inputs }
            }
            "ids" => Parts { options: options.set(key, numbers(value)), prompt, inputs },
            "bias" => Parts { options: options.set(key, biases(value)), prompt, inputs },
            _ => panic!("unknown word: {what}"),
        })
    }

    /// What the last line of a case asks for. None: it is not a last line.
    fn answer(&self, engine: &Engine, what: &str, rest: &str) -> Option<Result<String>> {
        Some(match what {
            "generate" => engine.generate(&self.prompt, &self.options).map(|all| answer(&all)),
            "stream" => self.stream(engine, false),
            "cancel" => self.stream(engine, true),
            "encode" => self.prompt.encode(&engine.model(), &self.options).map(|found| format!(",\"ids\":{}", ids(&found))),
            "embed" => self.embed(engine, number(rest)),
            "rerank" => self.rerank(engine, &unescape(rest)),
            _ => return None,
        })
    }

    fn stream(&self, engine: &Engine, cancel: bool) -> Result<String> {
        let mut request = engine.stream(&self.prompt, &self.options)?;
        if cancel {
            request.cancel();
        }
        let events: Vec<Event> = request.by_ref().collect::<Result<_>>()?;
        Ok(format!(",\"events\":{}{}", list(&events, event), answer(&request.result()?)))
    }

    fn embed(&self, engine: &Engine, dimensions: usize) -> Result<String> {
        let tensors = engine.embed(&self.inputs, dimensions, &self.options)?;
        Ok(format!(",\"embeddings\":{}", list(tensors.get(0, "embeddings")?.rows(), floats)))
    }

    fn rerank(&self, engine: &Engine, query: &str) -> Result<String> {
        let tensors = engine.rerank(query, &self.inputs, &self.options)?;
        Ok(format!(",\"scores\":{}", floats(tensors.get(0, "scores")?.values)))
    }
}

fn run(engine: &Engine) {
    let mut name = String::new();
    let mut parts = Parts::new(); // or the case's first error
    let mut submitted: Vec<(String, Result<Request>)> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the cases are UTF-8");
        let (what, rest) = word(&line);
        match what {
            "case" => (name, parts) = (rest.to_owned(), Parts::new()),
            "submit" => {
                let started = match &parts {
                    Ok(case) => engine.stream(&case.prompt, &case.options),
                    Err(error) => Err(error.clone()),
                };
                submitted.push((name.clone(), started));
            }
            "wait" => {
                for (name, request) in submitted.drain(..) {
                    print(&name, request.and_then(Request::wait).map(|all| answer(&all)));
                }
            }
            _ if what.is_empty() || what.starts_with('#') => {}
            _ => match parts.as_ref().map(|case| case.answer(engine, what, rest)) {
                Ok(Some(outcome)) => print(&name, outcome),
                Ok(None) => parts = parts.and_then(|case| case.add(what, rest)),
                Err(error) if ["generate", "stream", "cancel", "encode", "embed", "rerank"].contains(&what) => {
                    print(&name, Err(error.clone()));
                }
                Err(_) => {}
            },
        }
    }
}

fn main() {
    let path = std::env::args().nth(1).expect("usage: host MODEL_FOLDER < CASES");
    match Engine::open(path, &Options::new()) {
        Ok(engine) => run(&engine),
        Err(error) => {
            print("open", Err(error));
            std::process::exit(1);
        }
    }
}
