//! Reads JSON from outside without recursion and without building a tree: checks all of it, keeps the outermost members.
//!
//! Stricter than RFC 8259, as RFC 7493 (I-JSON) asks: duplicate members, unpaired surrogates and numbers that no double
//! holds are faults. So whatever passes here is read the same way by every parser that it is relayed to.

use std::borrow::Cow;
use std::fmt;

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not JSON; the offset in bytes.
    Syntax(usize),
    /// Objects and arrays nested deeper than allowed.
    Depth,
    /// More members, over all objects of the text, than allowed.
    Members,
    /// An object names this member twice.
    Duplicate(String),
    /// An escape of half a surrogate pair; the offset in bytes.
    Surrogate(usize),
    /// A number beyond the range of a double; the offset in bytes.
    Number(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Syntax(at) => write!(f, "not valid JSON at byte {at}"),
            Fault::Depth => f.write_str("nested too deeply"),
            Fault::Members => f.write_str("too many members"),
            Fault::Duplicate(name) => {
                let short: String = name.chars().take(64).collect();
                write!(f, "duplicate member {short:?}")
            }
            Fault::Surrogate(at) => write!(f, "unpaired surrogate at byte {at}"),
            Fault::Number(at) => write!(f, "number out of range at byte {at}"),
        }
    }
}

/// What the outermost value is, with the texts of its own children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outline<'a> {
    Object(Vec<(Cow<'a, str>, &'a str)>),
    /// The first elements, as many as members are allowed, and how many there are in all.
    Array(Vec<&'a str>, usize),
    /// A string, number, boolean or null.
    Scalar,
}

/// Checks the whole of `text` and outlines its outermost value. `depth` bounds nesting (a scalar has 0), `members` the
/// members of all objects together.
pub fn outline(text: &str, depth: usize, members: usize) -> Result<Outline<'_>, Fault> {
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0 };
    let mut open: Vec<Open> = Vec::new();
    let mut names: Vec<Cow<'_, str>> = Vec::new();
    let mut member_count = 0;
    let mut object = Vec::new();
    let mut array = Vec::new();
    let mut element_count = 0;
    let mut outermost = None;
    let mut child_start = 0;

    loop {
        // A value is due.
        reader.skip_space();
        if open.len() == 1 {
            child_start = reader.at;
        }
        let mut opened = None;
        match reader.peek() {
            Some(b'{') => opened = Some(Open::Object { first_name: names.len() }),
            Some(b'[') => opened = Some(Open::Array),
            Some(b'"') => {
                reader.string()?;
            }
            Some(b't') => reader.word("true")?,
            Some(b'f') => reader.word("false")?,
            Some(b'n') => reader.word("null")?,
            Some(b'-' | b'0'..=b'9') => reader.number()?,
            _ => return Err(reader.fault()),
        }
        if let Some(container) = opened {
            reader.at += 1;
            if open.len() >= depth {
                return Err(Fault::Depth);
            }
            outermost.get_or_insert(container);
            open.push(container);
            reader.skip_space();
            match container {
                Open::Object { first_name } if reader.peek() != Some(b'}') => {
                    reader.member(&mut names, first_name, &mut member_count, members)?;
                    continue;
                }
                Open::Array if reader.peek() != Some(b']') => continue,
                _ => {
                    reader.at += 1;
                    open.pop();
                }
            }
        }
        // A value is complete, and with it perhaps what it stands in.
        loop {
            if open.len() == 1 {
                let child = text.get(child_start..reader.at).unwrap_or_default();
                if open == [Open::Array] {
                    element_count += 1;
                    if array.len() < members {
                        array.push(child);
                    }
                } else if let Some(name) = names.last() {
                    object.push((name.clone(), child));
                }
            }
            reader.skip_space();
            let Some(container) = open.last().copied() else {
                if reader.at < text.len() {
                    return Err(reader.fault());
                }
                return Ok(match outermost {
                    Some(Open::Object { .. }) => Outline::Object(object),
                    Some(Open::Array) => Outline::Array(array, element_count),
                    None => Outline::Scalar,
                });
            };
            let byte = reader.peek();
            if byte.is_none() {
                return Err(reader.fault());
            }
            reader.at += 1;
            match (container, byte) {
                (Open::Object { first_name }, Some(b',')) => {
                    reader.skip_space();
                    reader.member(&mut names, first_name, &mut member_count, members)?;
                    break;
                }
                (Open::Array, Some(b',')) => break,
                (Open::Object { first_name }, Some(b'}')) => {
                    names.truncate(first_name);
                    open.pop();
                }
                (Open::Array, Some(b']')) => {
                    open.pop();
                }
                _ => return Err(Fault::Syntax(reader.at - 1)),
            }
        }
    }
}

/// The string that a string's text (with its quotes) stands for; `None` when it is no string.
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') {
        return serde_json::from_str::<String>(text).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inside))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// Names from `first_name` on belong to this object.
    Object {
        first_name: usize,
    },
    Array,
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fault(&self) -> Fault {
        Fault::Syntax(self.at)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            return Err(self.fault());
        }
        self.at += word.len();
        Ok(())
    }

    /// A member's name and the colon behind it.
    fn member(
        &mut self,
        names: &mut Vec<Cow<'a, str>>,
        first_name: usize,
        count: &mut usize,
        most: usize,
    ) -> Result<(), Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault());
        }
        let start = self.at;
        let quoted = self.string()?;
        let name = string(quoted).ok_or(Fault::Syntax(start))?;
        *count += 1;
        if *count > most {
            return Err(Fault::Members);
        }
        if names.iter().skip(first_name).any(|other| *other == name) {
            return Err(Fault::Duplicate(name.into_owned()));
        }
        names.push(name);
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.fault());
        }
        self.at += 1;
        Ok(())
    }

    /// A string's text with its quotes.
    fn string(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return self.text.get(start..self.at).ok_or(Fault::Syntax(start));
                }
                Some(b'\\') => self.escape()?,
                Some(0x20..) => self.at += 1,
                _ => return Err(self.fault()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => match self.hex()? {
                0xdc00..=0xdfff => Err(Fault::Surrogate(start)),
                0xd800..=0xdbff => {
                    if self.bytes.get(self.at..self.at + 2) != Some(br"\u") {
                        return Err(Fault::Surrogate(start));
                    }
                    self.at += 1;
                    if matches!(self.hex()?, 0xdc00..=0xdfff) { Ok(()) } else { Err(Fault::Surrogate(start)) }
                }
                _ => Ok(()),
            },
            _ => Err(self.fault()),
        }
    }

    /// `uXXXX`
    fn hex(&mut self) -> Result<u16, Fault> {
        let digits = self.text.get(self.at + 1..self.at + 5).ok_or(self.fault())?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(self.fault());
        }
        self.at += 5;
        u16::from_str_radix(digits, 16).map_err(|_| self.fault())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.fault()),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let finite = self.text.get(start..self.at).and_then(|n| n.parse::<f64>().ok()).is_some_and(f64::is_finite);
        if finite { Ok(()) } else { Err(Fault::Number(start)) }
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Outline<'_>, Fault> {
        outline(text, 32, 256)
    }

    #[test]
    fn outlines_the_outermost_value() {
        let object = check(r#" { "a" : [1, {"x":2}] , "bA" : "q\"," , "c":{} } "#);
        let Ok(Outline::Object(members)) = object else { panic!("{object:?}") };
        let expect = [("a", r#"[1, {"x":2}]"#), ("bA", r#""q\",""#), ("c", "{}")];
        assert_eq!(members.iter().map(|(n, v)| (&**n, *v)).collect::<Vec<_>>(), expect);
        assert_eq!(check("[ ]"), Ok(Outline::Array(vec![], 0)));
        assert_eq!(check("[1 , [2,3],{}]"), Ok(Outline::Array(vec!["1", "[2,3]", "{}"], 3)));
        for scalar in ["1", "-0.5e+3", "true", "false", "null", r#""x""#, " 7\n"] {
            assert_eq!(check(scalar), Ok(Outline::Scalar), "{scalar}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "[",
            "]",
            "[1,]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            "{a:1}",
            "[1 2]",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "tru",
            "nulll",
            "1 2",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\u{1}\"",
            "\"\\u+123\"",
            "[1}",
            r#"{"a":1]"#,
            "NaN",
            "\u{feff}{}",
            "\"\\u12\u{e9}\"",
            "{}{}",
        ] {
            assert!(matches!(check(text), Err(Fault::Syntax(_))), "{text:?} {:?}", check(text));
        }
    }

    #[test]
    fn refuses_what_parsers_read_differently() {
        assert_eq!(check(r#"{"a":1,"a":2}"#), Err(Fault::Duplicate("a".into())));
        assert_eq!(check(r#"{"a":1,"\u0061":2}"#), Err(Fault::Duplicate("a".into())));
        assert_eq!(check(r#"[{"x":{"b":1,"b":1}}]"#), Err(Fault::Duplicate("b".into())));
        assert!(check(r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}"#).is_ok());
        for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\u0041""#, r#""\ud800x""#] {
            assert!(matches!(check(text), Err(Fault::Surrogate(_))), "{text}");
        }
        assert!(check(r#""\ud83d\ude00""#).is_ok());
        assert!(matches!(check("1e999"), Err(Fault::Number(0))));
        assert!(matches!(check(&format!("[{}]", "9".repeat(400))), Err(Fault::Number(1))));
    }

    #[test]
    fn bounds_depth_and_members() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(check(&nested(32)).is_ok());
        assert_eq!(check(&nested(33)), Err(Fault::Depth));
        assert_eq!(check(&"[".repeat(200_000)), Err(Fault::Depth));
        assert_eq!(check(&"{\"a\":".repeat(50_000)), Err(Fault::Depth));
        let wide = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"m{i}\":0")).collect::<Vec<_>>().join(","));
        assert!(check(&wide(256)).is_ok());
        assert_eq!(check(&wide(257)), Err(Fault::Members));
        assert_eq!(check(&format!("[{},{}]", wide(200), wide(57))), Err(Fault::Members));
        let long = format!("[0{}]", ",0".repeat(999));
        let Ok(Outline::Array(kept, 1000)) = check(&long) else { panic!("an array of 1000") };
        assert_eq!(kept.len(), 256);
    }

    /// Agrees with serde_json on what is JSON, over seeded mutations; the rules beyond RFC 8259 aside.
    #[test]
    fn agrees_with_serde_json() {
        let seeds = [
            r#"{"type":"join","data":{"a":[1,2.5e-3,true,null],"b":"\u00e9\n\ud83d\ude00"},"id":-7}"#,
            r#"[[],{},"",{"x":[{"y":"z"}]}]"#,
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let alphabet = b"{}[]\",:\\u0123e.-+ tfn\x01x";
        for round in 0..40_000 {
            let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bytes.len());
                match random.u8(0..3) {
                    0 => bytes[at] = alphabet[random.usize(0..alphabet.len())],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, alphabet[random.usize(0..alphabet.len())]),
                }
            }
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            match check(&text) {
                Err(Fault::Duplicate(_)) => {}
                ours => assert_eq!(ours.is_ok(), theirs, "{text:?} {ours:?}"),
            }
        }
    }
}
