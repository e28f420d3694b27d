//! Reads `src/` and fails on what the compiler does not see: what touches the world, imports against the arrow, work that
//! was put off, files that do not say what they are.
//!
//! Rules are about code outside tests. An exception stands in the table of its rule, with its reason; one that is not
//! needed any more fails as well.

use std::fs;
use std::path::Path;

/// What may touch the world, and which words give it away.
const WORLD: &[&str] = &["cli", "db", "jobs", "main", "storage", "worker"];
const WORLD_WORDS: &[(&str, &str)] = &[
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "wall time is an argument"),
    (".elapsed()", "time is an argument"),
    ("std::fs", "files are for jobs, and for cli at start-up"),
    ("std::thread", "threads are for worker, jobs and cli"),
    ("thread::spawn", "threads are for worker, jobs and cli"),
    ("thread::sleep", "nothing sleeps"),
    ("UdpSocket", "sockets are for worker"),
    ("TcpStream", "sockets are for worker"),
    ("TcpListener", "sockets are for worker"),
    ("UnixStream", "sockets are for worker"),
    ("ToSocketAddrs", "names are resolved by jobs and cli"),
    ("socket2::", "sockets are for worker"),
    ("mio::", "the loop is for worker"),
    ("env::var", "the environment is read once, by config, from what cli hands it"),
    ("std::process", "processes are for cli"),
    ("thread_rng", "random numbers are seeded and passed in"),
    ("Mutex<", "state has one owner"),
    ("RwLock<", "state has one owner"),
];
/// File, word, reason.
const WORLD_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("fuzz/mod.rs", "Instant::now", "an Instant cannot be made otherwise; not in the server"),
    ("peer/crypto/mod.rs", "SystemTime::now", "the dates in a certificate, made once, by which nothing decides"),
    ("peer/crypto/dtls.rs", "Mutex<", "a cache of what takes a millisecond to build, filled with the first joins"),
];

/// What a module does not import; `super` is followed too.
const ARROW: &[(&str, &[&str])] = &[
    (
        "base",
        &[
            "auth",
            "cli",
            "client",
            "config",
            "http",
            "ice_servers",
            "jobs",
            "log",
            "metrics",
            "p2p",
            "peer",
            "room",
            "sfu",
            "shard",
            "signal",
            "worker",
            "ws",
        ],
    ),
    ("config", &["auth", "cli", "http", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "worker", "ws"]),
    ("auth", &["cli", "http", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "worker", "ws"]),
    ("metrics", &["cli", "http", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "worker", "ws"]),
    ("room", &["cli", "http", "jobs", "p2p", "peer", "sfu", "shard", "signal", "worker", "ws"]),
    ("p2p", &["cli", "http", "jobs", "peer", "sfu", "shard", "signal", "worker", "ws"]),
    ("sfu", &["cli", "http", "jobs", "p2p", "peer", "room", "shard", "signal", "worker", "ws"]),
    ("peer", &["cli", "http", "jobs", "p2p", "room", "shard", "signal", "worker", "ws"]),
    ("quality", &["auth", "cli", "http", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "worker", "ws"]),
    ("signal", &["cli", "http", "jobs", "peer", "sfu", "shard", "worker", "ws"]),
    ("http", &["cli", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "worker"]),
    ("whip", &["cli", "http", "jobs", "peer", "sfu", "shard", "signal", "worker", "ws"]),
    ("ws", &["cli", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "worker"]),
    (
        "webm",
        &[
            "auth",
            "base",
            "cli",
            "client",
            "config",
            "frames",
            "http",
            "ice_servers",
            "jobs",
            "log",
            "metrics",
            "p2p",
            "peer",
            "quality",
            "room",
            "sfu",
            "shard",
            "signal",
            "whip",
            "worker",
            "ws",
        ],
    ),
    (
        "recording",
        &[
            "auth", "cli", "db", "http", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "storage", "whip",
            "worker", "ws",
        ],
    ),
    ("shard", &["cli", "db", "jobs", "storage", "worker"]),
    ("worker", &["cli", "db", "jobs", "storage"]),
    (
        "db",
        &["auth", "cli", "http", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "storage", "worker", "ws"],
    ),
    ("storage", &["auth", "cli", "http", "jobs", "p2p", "peer", "room", "sfu", "shard", "signal", "worker", "ws"]),
    ("jobs", &["cli", "p2p", "peer", "room", "sfu", "shard", "signal", "worker"]),
];

/// A word that only one module may say, and that module.
const OWNED: &[(&str, &str)] = &[("Rtc", "peer"), ("str0m::RtcConfig", "peer")];

/// Nowhere, tests and comments included. In pieces, so that this file may be read by its own rule one day.
const PUT_OFF: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), "todo!", "unimplemented!", "dbg!"];

#[test]
fn only_some_modules_touch_the_world() {
    let mut bad = Vec::new();
    let mut used = vec![false; WORLD_EXCEPTIONS.len()];
    for file in sources() {
        if WORLD.contains(&file.module()) {
            continue;
        }
        for (number, line) in file.code() {
            for (word, reason) in WORLD_WORDS.iter().filter(|(word, _)| says(line, word)) {
                match WORLD_EXCEPTIONS.iter().position(|(path, w, _)| *path == file.path && w == word) {
                    Some(at) => used[at] = true,
                    None => bad.push(format!("{}:{number}: {word}: {reason}", file.at())),
                }
            }
            // The thread's own generator; `fastrand::Rng` is seeded.
            if !file.path.starts_with("fuzz") && line.replace("fastrand::Rng", "").contains("fastrand::") {
                bad.push(format!("{}:{number}: fastrand: random numbers are seeded and passed in", file.at()));
            }
        }
    }
    for ((path, word, _), used) in WORLD_EXCEPTIONS.iter().zip(used) {
        if !used {
            bad.push(format!("src/{path}: the exception for {word} is not needed any more"));
        }
    }
    done(&bad);
}

#[test]
fn nothing_imports_against_the_arrow() {
    let mut bad = Vec::new();
    for file in sources() {
        let Some((_, forbidden)) = ARROW.iter().find(|(module, _)| *module == file.module()) else { continue };
        for (number, line) in file.code() {
            for name in file.imports(line) {
                if name.is_empty() {
                    bad.push(format!("{}:{number}: import one module a line, so that it can be read here", file.at()));
                } else if forbidden.contains(&name) {
                    bad.push(format!("{}:{number}: {} does not import {name}", file.at(), file.module()));
                }
            }
        }
    }
    done(&bad);
}

#[test]
fn one_module_names_the_connection() {
    let mut bad = Vec::new();
    for file in sources() {
        for (number, line) in file.code() {
            for (word, owner) in OWNED.iter().filter(|(word, owner)| *owner != file.module() && says(line, word)) {
                bad.push(format!("{}:{number}: only {owner} says {word}", file.at()));
            }
        }
    }
    done(&bad);
}

#[test]
fn nothing_is_put_off() {
    let mut bad = Vec::new();
    for file in sources() {
        for (number, line) in (1..).zip(file.text.lines()) {
            for word in PUT_OFF.iter().filter(|word| says(line, word)) {
                bad.push(format!("{}:{number}: {word}", file.at()));
            }
        }
    }
    done(&bad);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|file| !file.text.starts_with("//! "));
    done(&silent.map(|file| format!("{}: begins without //!", file.at())).collect::<Vec<_>>());
}

/// The rules would pass on an empty tree, and on code that they cannot read.
#[test]
fn the_reader_reads() {
    let files = sources();
    assert!(files.len() > 30, "{} files", files.len());
    let modules: Vec<&str> = files.iter().map(Source::module).collect();
    for (module, _) in ARROW {
        assert!(modules.contains(module), "there is no {module} any more");
    }
    let text = "//! Head.\nuse crate::peer::Peer;\n// Instant::now\nlet a = super::super::shard::X; // std::fs\n\
                #[cfg(test)]\nmod tests {\n    Instant::now();\n}\nlet b = \"//\"; crate::ws::f()\n";
    let file = Source { path: "sfu/track.rs".into(), text: text.into() };
    assert_eq!(file.module(), "sfu");
    let code: Vec<(usize, &str)> = file.code().collect();
    assert_eq!(code.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 4, 9]);
    let imports: Vec<&str> = code.iter().flat_map(|(_, line)| file.imports(line)).collect();
    assert_eq!(imports, ["peer", "shard", "ws"]);
    assert!(!code.iter().any(|(_, line)| line.contains("std::fs")));
    assert!(says("x.dbg!(y)", "dbg!") && !says("RtcConfig", "Rtc") && !says("mixed_Rtc", "Rtc"));
    let top = Source { path: "p2p.rs".into(), text: String::new() };
    assert_eq!(top.imports("use super::peer::X;"), ["peer"]);
    let inner = Source { path: "peer/mod.rs".into(), text: String::new() };
    assert_eq!(inner.imports("use super::room; use self::sdp::check; use super::super::x;"), ["room"]);
    assert_eq!(top.imports("use crate::{peer, shard};"), [""]);
}

struct Source {
    /// Below `src/`.
    path: String,
    text: String,
}

impl Source {
    fn at(&self) -> String {
        format!("src/{}", self.path)
    }

    /// The module of the first level.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// How many `super` lead from here to the root.
    fn depth(&self) -> usize {
        self.path.split('/').count() - usize::from(self.path.ends_with("/mod.rs"))
    }

    /// Lines with their numbers, without comments and tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let mut in_tests = false;
        let mut before = "";
        (1..).zip(self.text.lines()).filter_map(move |(number, line)| {
            // Formatted code: a test module begins and ends in the first column.
            let opens = before == "#[cfg(test)]" && line.contains("mod ") && line.ends_with('{');
            before = line;
            if in_tests || opens {
                in_tests = line != "}";
                return None;
            }
            let code = match line.trim_start() {
                comment if comment.starts_with("//") => "",
                _ if line == "#[cfg(test)]" => "",
                _ => line.rfind(" // ").map_or(line, |at| &line[..at]),
            };
            (!is_test && !code.is_empty()).then_some((number, code))
        })
    }

    /// The modules of the first level that a line names; an empty name for a group of them.
    fn imports<'a>(&self, line: &'a str) -> Vec<&'a str> {
        let mut found = Vec::new();
        let own = "super::".repeat(self.depth());
        for root in ["crate::", own.as_str()] {
            for (at, _) in line.match_indices(root) {
                let rest = &line[at + root.len()..];
                let is_part = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
                if is_part || rest.starts_with("super::") {
                    continue;
                }
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                found.push(&rest[..end]);
            }
        }
        found
    }
}

/// Whether a line has the word, and not only as a part of a longer one.
fn says(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let runs_on = word.starts_with(is_name) && before.ends_with(is_name);
        let goes_on = word.ends_with(is_name) && after.starts_with(is_name);
        !runs_on && !goes_on
    })
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a text");
                let path = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn done(bad: &[String]) {
    assert!(bad.is_empty(), "\n{}\n", bad.join("\n"));
}
