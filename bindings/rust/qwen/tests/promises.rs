//! What the crate promises, against the model in path/to/Qwen3-0.6B, which must be the demo model of the Python package.

use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use qwen::{sys, Engine, ErrorKind, Event, FinishReason, Inputs, Model, Options, Prompt, Queue, Request, Tensors, Tokenizer};

const MODEL: &str = "path/to/Qwen3-0.6B";

fn engine() -> Engine {
    Engine::open(MODEL, &Options::new()).unwrap()
}

fn briefly() -> Options {
    Options::new().set("reasoning_mode", false).set("temperature", 0)
}

const ENDLESS: i32 = 60_000; // tokens: many seconds, if nobody ends the answer

/// An engine on the same model with a longer context, and what makes it give an endless answer.
fn endless(test: &str) -> (Engine, Prompt, Options) {
    let (model, copy) = (fs::canonicalize(MODEL).unwrap(), Path::new(env!("CARGO_TARGET_TMPDIR")).join(test));
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir(&copy).unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        symlink(model.join(name), copy.join(name)).unwrap();
    }
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let longer = config.replace("\"max_position_embeddings\": 2048", "\"max_position_embeddings\": 65536");
    assert_ne!(longer, config);
    fs::write(copy.join("config.json"), longer).unwrap();
    let options = Options::new().set("ignore_eos", true).set("max_tokens", ENDLESS);
    (Engine::open(copy, &Options::new()).unwrap(), Prompt::from_text("What is").unwrap(), options)
}

#[test]
fn what_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Engine>();
    shared::<Model>();
    shared::<Tokenizer>();
    shared::<Prompt>();
    shared::<Inputs>();
    shared::<Options>();
    shared::<Tensors>();
    shared::<Request>();
    shared::<qwen::Error>();
}

#[test]
fn threads_share_an_engine() {
    let engine = engine();
    thread::scope(|scope| {
        for n in 1..5 {
            let engine = &engine;
            scope.spawn(move || {
                let answer = engine.chat(&format!("What is {n} + 20?"), &briefly()).unwrap();
                assert_eq!(answer, format!("{n} plus 20 is {}.", n + 20));
            });
        }
    });
    assert_eq!(engine.stats().unwrap().finished, 4);
}

#[test]
fn a_stream_says_what_generate_says() {
    let engine = engine();
    let prompt = Prompt::from_messages([("system", "You add."), ("user", "What is 17 + 25?")]).unwrap();
    let options = Options::new().set("temperature", 0).set("logprobs", true).set("top_logprobs", 2);
    let answer = engine.generate(&prompt, &options).unwrap();
    assert_eq!((answer.text(), answer.choices[0].finish_reason), ("17 plus 25 is 42.", FinishReason::Stop));

    let mut request = engine.stream(&prompt, &options).unwrap();
    let (mut thought, mut said, mut ids, mut finished) = (String::new(), String::new(), Vec::new(), None);
    for event in request.by_ref() {
        match event.unwrap() {
            Event::Text { reasoning, text, token_ids, logprobs, .. } => {
                if reasoning { &mut thought } else { &mut said }.push_str(&text);
                assert_eq!((logprobs.tokens.len(), logprobs.top.len()), (token_ids.len(), token_ids.len()));
                ids.extend(token_ids);
            }
            Event::Finished { reason, .. } => finished = Some(reason),
            other => panic!("{other:?}"),
        }
    }
    assert!(request.next().is_none());
    let choice = &answer.choices[0];
    assert_eq!((said, thought, ids), (choice.text.clone(), choice.reasoning.clone(), choice.token_ids.clone()));
    assert_eq!(finished, Some(FinishReason::Stop));
    assert_eq!(request.result().unwrap().choices, answer.choices);
}

#[test]
fn a_request_that_is_dropped_leaves_nothing_running() {
    let (engine, prompt, options) = endless("a_request_that_is_dropped_leaves_nothing_running");
    let mut request = engine.stream(&prompt, &options).unwrap();
    let _canceller = request.canceller(); // does not keep it going
    request.next().unwrap().unwrap();
    drop(request);
    assert!(engine.drain(Some(Duration::from_secs(20))).unwrap());
    assert!(engine.stats().unwrap().generated_tokens < ENDLESS.into());
    assert_eq!(engine.stream(&prompt, &options).err().unwrap().kind(), ErrorKind::Closed);
}

#[test]
fn another_thread_cancels_and_stops() {
    let (engine, prompt, options) = endless("another_thread_cancels_and_stops");
    let mut request = engine.stream(&prompt, &options).unwrap();
    let canceller = request.canceller();
    thread::spawn(move || canceller.cancel()).join().unwrap();
    let error = request.find_map(Result::err).expect("a cancelled request ends with an error");
    assert_eq!((error.kind(), error.status_name()), (ErrorKind::Cancelled, "QWEN_ERR_CANCELLED"));
    assert!(request.next().is_none());

    let mut request = engine.stream(&prompt, &options).unwrap();
    request.next().unwrap().unwrap();
    request.canceller().stop();
    let answer = request.wait().unwrap();
    assert_eq!(answer.choices[0].finish_reason, FinishReason::Stop);
    assert!(!answer.choices[0].token_ids.is_empty());
}

#[test]
fn a_request_outlives_its_engine() {
    let (engine, prompt, options) = endless("a_request_outlives_its_engine");
    let request = engine.stream(&prompt, &options).unwrap();
    drop((engine, prompt));
    assert_eq!(request.wait().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn one_thread_reads_many_requests_from_a_queue() {
    let (engine, mut queue) = (engine(), Queue::new().unwrap());
    assert!(queue.as_raw_fd() >= 0);
    assert_eq!(queue.next(Some(Duration::ZERO)).unwrap(), []);
    let started: Vec<Request> = (0..3)
        .map(|n| {
            let prompt = Prompt::from_messages([("user", &*format!("What is {n} + 1?"))]).unwrap();
            engine.submit(&queue, 100 + n, &prompt, &briefly()).unwrap()
        })
        .collect();
    let mut texts = [(); 3].map(|()| String::new());
    let mut running = 3;
    while running > 0 {
        for (tag, event) in queue.next(None).unwrap() {
            match event {
                Event::Text { text, .. } => texts[(tag - 100) as usize].push_str(&text),
                Event::Done { outcome, .. } => {
                    outcome.unwrap();
                    running -= 1;
                }
                _ => {}
            }
        }
    }
    assert_eq!(texts, ["0 plus 1 is 1.", "1 plus 1 is 2.", "2 plus 1 is 3."]);
    assert_eq!(started[2].result().unwrap().text(), texts[2]);
}

#[test]
fn errors_name_what_is_wrong() {
    let missing = Engine::open("no/such/model", &Options::new()).err().unwrap();
    assert_eq!((missing.kind(), missing.code()), (ErrorKind::NotFound, sys::QWEN_ERR_NOT_FOUND));
    assert!(missing.to_string().starts_with("no/such/model: no such folder"), "{missing}");

    let nul = Engine::open("a\0b", &Options::new()).err().unwrap();
    assert_eq!((nul.kind(), &*nul.to_string()), (ErrorKind::InvalidArgument, "a path must not contain NUL: \"a\\0b\""));

    let engine = engine();
    let refused = |options: Options| engine.chat("Hello", &options).unwrap_err().to_string();
    assert!(refused(Options::new().set("colour", 3)).starts_with("unknown option 'colour'"));
    assert_eq!(refused(Options::new().set("top_p", 2)), "option 'top_p' is 2; allowed are 0 to 1");
    assert_eq!(refused(Options::new().set("seed", "x")), "option 'seed' takes an integer, not a text");
    let wrong = engine.forward(&[&[1], &[2]], sys::QWEN_OUTPUT_LOGITS, &[0], &Options::new()).err().unwrap();
    assert_eq!(wrong.to_string(), "1 first_rows for 2 sequences");
}

#[test]
fn several_engines_share_a_model_and_its_tokenizer() {
    let model = Model::open(MODEL, &Options::new()).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let engines = [1, 2].map(|threads| Engine::new(&model, &Options::new().set("threads", threads)).unwrap());
    let info = model.clone().info().unwrap();
    assert_eq!((&*info.architecture, info.has_chat_template), ("Qwen3ForCausalLM", true));
    drop(model);
    assert!(engines.iter().all(|engine| engine.chat("What is 2 + 3?", &briefly()).unwrap() == "2 plus 3 is 5."));
    drop(engines);

    let text = "17 plus 25 🙂\0<|im_end|>";
    let ids = tokenizer.encode(text, 0).unwrap();
    assert_eq!(tokenizer.decode(&ids, 0).unwrap(), text);
    assert_eq!(ids.last().copied(), tokenizer.token_id("<|im_end|>"));
    assert_eq!((tokenizer.token_id("<|no|>"), tokenizer.size()), (None, info.vocab_size));
    assert_ne!(tokenizer.encode(text, sys::QWEN_ENCODE_PLAIN).unwrap(), ids);
    assert_eq!(Tokenizer::open(MODEL).unwrap().encode(text, 0).unwrap(), ids);
}

#[test]
fn prompts_show_what_the_model_is_given() {
    let engine = engine();
    let prompt = Prompt::new().unwrap().messages_json(r#"[{"role": "user", "content": "Hi"}]"#).unwrap();
    let plain = prompt.variables(r#"{"enable_thinking": false}"#).unwrap();
    let text = plain.render(&engine.model(), &Options::new()).unwrap();
    assert!(text.starts_with("<|im_start|>user\nHi<|im_end|>\n") && text.ends_with("</think>\n\n"), "{text}");
    let ids = plain.encode(&engine.model(), &Options::new()).unwrap();
    assert_eq!(engine.model().tokenizer().unwrap().encode(&text, 0).unwrap(), ids);
}

#[test]
fn tensors_come_out() {
    let engine = engine();
    let options = Options::new();
    let outputs = sys::QWEN_OUTPUT_LOGITS | sys::QWEN_OUTPUT_HIDDEN_STATES;
    let tensors = engine.forward(&[&[1, 2, 3], &[4, 5]], outputs, &[2, 0], &options).unwrap();
    assert_eq!(tensors.get(0, "logits").unwrap().shape(), [1, 768]);
    assert_eq!(tensors.get(1, "hidden.5").unwrap().shape(), [2, 192]);
    assert_eq!(tensors.get(1, "nothing").err().unwrap().kind(), ErrorKind::NotFound);

    let documents = Inputs::from_texts(["17 plus 25 is 42.", "Hello!"]).unwrap();
    let embedded = engine.embed(&documents, 32, &options).unwrap();
    for row in embedded.get(0, "embeddings").unwrap().rows() {
        let length: f32 = row.iter().map(|value| value * value).sum();
        assert!(row.len() == 32 && (length - 1.0).abs() < 1e-5);
    }
    let scores = engine.rerank("What is 17 + 25?", &documents, &options).unwrap();
    let scores = scores.get(0, "scores").unwrap();
    assert!(scores.shape() == [2] && scores.values.iter().all(|score| (0.0..=1.0).contains(score)));
}
